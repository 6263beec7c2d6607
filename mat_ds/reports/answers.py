"""What a run answered to each dev example, from its `predictions/`; the files may come from anyone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

import numpy as np

from mat_ds.errors import Problem, UserError, raise_if_any
from mat_ds.reports.runs import RunData
from mat_ds.storage.own_files import file_problems
from mat_ds.storage.reading import read_bytes
from mat_ds.storage.rundir import RunDirectory

ACCURACY, NLL, SQUARED = "accuracy", "NLL", "squared error"
# A probability that fp32 rounds to 0 counts as its smallest normal number.
TINY = float(np.finfo(np.float32).tiny)
FIX = "bring it back from a copy, or leave this run out"


@dataclass(frozen=True)
class Answers:
    """A run's answers to all dev examples, one split after the other.

    Attributes:
        gold: the labels, by which two runs are seen to have answered the same examples.
        measured: accuracy and NLL, or squared error, of each example: (examples,).
    """

    gold: list[Any]
    measured: dict[str, np.ndarray]


def answers_of(run: RunData) -> Answers | None:
    """The answers of a run's exported model; None if it has none, or none that are counted example by example.

    Raises:
        UserError: if a file is not the run's own, or not what training writes.
    """
    if run.folder is None:
        return None
    folder = RunDirectory(run.folder).predictions
    paths = sorted(folder.glob("*.jsonl"))
    raise_if_any(file_problems(run.folder, [str(path.relative_to(run.folder)) for path in paths]))
    lines = [line for path in paths for line in _answer_lines(path)]
    measured = {name: found for name, measure in MEASURES.items() if (found := _measured(lines, measure)) is not None}
    return Answers([line["gold"] for line in lines], measured) if measured else None


def _answer_lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines = [json.loads(line) for line in read_bytes(path).splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(Problem(str(path), None, f"cannot be read: {error}", FIX)) from None
    if not all(isinstance(line, dict) and "gold" in line for line in lines):
        raise UserError(Problem(str(path), None, "has a line without a gold label", FIX))
    return lines


def _measured(lines: list[dict[str, Any]], measure: Callable[[dict[str, Any]], float | None]) -> np.ndarray | None:
    found = [measure(line) for line in lines]
    return np.array(found, float) if found and None not in found else None


def _right(line: dict[str, Any]) -> float | None:
    gold, label = line["gold"], line.get("label")
    return float(gold == label) if isinstance(gold, str) and isinstance(label, str) else None


def _nll(line: dict[str, Any]) -> float | None:
    probabilities, gold = line.get("probabilities"), line["gold"]
    share = _squarable(probabilities.get(gold)) if isinstance(probabilities, dict) and isinstance(gold, str) else None
    return -log(max(share, TINY)) if share is not None and 0 <= share <= 1.001 else None


def _squared_error(line: dict[str, Any]) -> float | None:
    score, gold = _squarable(line.get("score")), _squarable(line["gold"])
    return None if score is None or gold is None else (score - gold) ** 2


def _squarable(value: Any) -> float | None:
    """A number whose square is finite."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < sys.float_info.max**0.5
    return float(value) if number else None


MEASURES = {ACCURACY: _right, NLL: _nll, SQUARED: _squared_error}
