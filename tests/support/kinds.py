"""Kinds of tasks for tests of methods and models."""

from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.registry import TASKS

CLASSIFICATION, REGRESSION = kind_of(TASKS["mnli"]), kind_of(TASKS["stsb"])
