"""Finds what an evaluation names: model folder, task, data options. Imports no torch: a mistake is answered at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mat_ds.artifacts.described import Description, read_description, run_around
from mat_ds.artifacts.members import members_of
from mat_ds.errors import Problem, UserError, collect_problems
from mat_ds.evaluation.attacks.embedding_options import embedding_attack_problems
from mat_ds.evaluation.attacks.options import INSTALLED_BY, RECIPES, TextAttackOptions
from mat_ds.evaluation.invariance.suite import Suite, read_tests
from mat_ds.evaluation.options import EvaluationOptions
from mat_ds.evaluation.smoothing_options import smoothing_problems
from mat_ds.ranks.launch import launcher_problems
from mat_ds.registry.locate import is_local, locate
from mat_ds.tasks.examples import check_sources
from mat_ds.tasks.hub import expect_from_hub
from mat_ds.tasks.kinds import KINDS, kind_of
from mat_ds.tasks.kinds.base import Kind
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.registry import find_task
from mat_ds.tasks.spec import TaskSpec


@dataclass(frozen=True)
class EvaluationRequest:
    """What to evaluate.

    Attributes:
        name: of the model, as given.
        folder: of its files.
        spec: the task.
        data: the options of the data.
        invariance: the tests of the model's behaviour; None if there are none.
    """

    name: str
    folder: Path
    spec: TaskSpec
    data: DataConfig
    invariance: Suite | None = None

    @property
    def test_names(self) -> list[str]:
        """Names of the tests of the model's behaviour."""
        return [test.name for test in self.invariance.tests] if self.invariance else []


def find_subject(model_name: str, options: EvaluationOptions) -> EvaluationRequest:
    """Finds the model, its task and its data; a model on the hub is downloaded.

    Raises:
        UserError: naming every problem with them and with the output folder.
    """
    source = locate(model_name)
    found = [*launcher_problems(), *_output_problems(model_name, options)]
    if options.mixture:
        collect_problems(found, members_of, source, model_name)
    if options.data.path and options.data.validation:
        fix = "leave one of the two out"
        found.append(Problem("data.validation", options.data.validation, "and data.path both say what to score on", fix))
    known = read_description(source)
    data = _data(options, source, known)
    if options.task is None and known is None:
        found.append(Problem("task", None, f"{model_name} does not say what task it was trained for", "pass task=<task>"))
    spec = collect_problems(found, find_task, options.task) if options.task else known.spec if known else None
    if spec and known and spec.hub != known.spec.hub:
        data = data.model_copy(update={"revision": None})  # which is of the other dataset
    if spec:
        found += _text_attack_problems(options.text_attack, kind_of(spec))
        found += embedding_attack_problems(options.attack, kind_of(spec))
        found += smoothing_problems(options.smoothing, kind_of(spec))
        collect_problems(found, check_sources, spec.model_copy(update={"also_train_on": {}}), data)
    file = options.invariance
    tests = collect_problems(found, read_tests, file, spec, options.seed) if spec and file else None
    if found or spec is None:
        raise UserError(*found)
    if spec.hub and data.path is None and data.validation is None:
        expect_from_hub(spec.hub)
    if options.groups:
        spec = spec.model_copy(update={"group": options.groups})
    return EvaluationRequest(model_name, source, spec, data, tests)


def _data(options: EvaluationOptions, source: Path, known: Description | None) -> DataConfig:
    """The data options: given ones, else those of the model's run, else the model's own maximum length."""
    run = run_around(source)
    own = run.data if run else DataConfig(max_length=known.max_length) if known else DataConfig()
    given = {**options.data.model_dump(), "eval_limit": options.limit}
    if options.data.path or options.data.validation:
        own = own.model_copy(update={"path": None})
    if options.data.path or options.data.validation or options.task:  # the files of a run are of its own task
        own = own.model_copy(update={"train": None, "validation": None, "dev_share": None})
    return own.model_copy(update={name: value for name, value in given.items() if value is not None})


def _output_problems(model_name: str, options: EvaluationOptions) -> Iterator[Problem]:
    if options.output_dir is None and not is_local(model_name):
        yield Problem("output_dir", None, f"{model_name} is not a folder of yours", "pass output_dir=<folder>")
        return
    chosen = Path(options.output_dir) if options.output_dir else Path(model_name) / "evaluation"
    existing = next(path for path in (chosen, *chosen.absolute().parents) if path.exists())
    if options.output_dir and existing == chosen and not (chosen.is_dir() and not any(chosen.iterdir())):
        yield Problem("output_dir", options.output_dir, "exists and is not empty", "name a new folder")
    elif not (existing.is_dir() and os.access(existing, os.W_OK)):
        yield Problem("output_dir", options.output_dir, f"{existing} cannot be written to", "name a writable folder")


def _text_attack_problems(options: TextAttackOptions, kind: Kind) -> Iterator[Problem]:
    if options.names and not kind.text_attacks:
        able = ", ".join(name for name, known in KINDS.items() if known.text_attacks)
        reason = f"no text of a task of {kind.name} can change while its label holds for certain"
        yield Problem("text_attack.names", ", ".join(options.names), reason, f"leave it out; there are attacks for {able}")
    elif options.column and options.column not in kind.columns:
        yield Problem(
            "text_attack.column", options.column, "is no text column of the task", f"take {' or '.join(kind.columns)}"
        )
    asked = ", ".join(name for name in options.names if name in RECIPES)
    if asked and kind.text_attacks and not kind.confuses:
        yield Problem("text_attack.names", asked, f"TextAttack has no goal for a task of {kind.name}", "leave it out")
    elif asked and find_spec("textattack") is None:
        yield Problem("text_attack.names", asked, "TextAttack is not installed", INSTALLED_BY)
