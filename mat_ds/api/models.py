"""`mat_ds.load`, `predict` and `evaluate`: use and evaluate trained models from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any

from mat_ds.api.session import as_overrides, raising, session
from mat_ds.config.validation import read_options
from mat_ds.evaluation.options import EvaluationOptions
from mat_ds.evaluation.predictor import Predictor, load_predictor
from mat_ds.ranks.exits import compute_deterministically
from mat_ds.runs.plugins import load_plugins

Model = str | PathLike[str]
Texts = Sequence[str | Sequence[str]]


def load(model: Model, task: str | None = None) -> Predictor:
    """Loads a trained model in fp32, on the GPU if there is one.

    Args:
        model: a run, a model folder, a hub model, or `models:/NAME@ALIAS` of MLflow's registry.
        task: its task, if the model does not name one itself.

    Raises:
        UserError: if there is no such model, or it does not fit the task.
    """
    load_plugins()
    return load_predictor(fspath(model), task)


def predict(model: Model | Predictor, texts: Texts, batch_size: int = 32) -> list[dict[str, Any]]:
    """Predicts an answer per text or pair of texts: `label` and `probabilities`, or `score`; see `Predictor.predict`."""
    return (model if isinstance(model, Predictor) else load(model)).predict(texts, batch_size)


def evaluate(model: Model, options: Mapping[str, Any] | None = None, /, quiet: bool = True, **keywords: Any) -> dict[str, Any]:
    """Scores a model on the labelled splits of its task: clean, under attack and under noise, like `mat-ds evaluate`.

    Args:
        model: as for `load`.
        options, keywords: options of `mat-ds evaluate`, by dotted name or as one mapping per section.
        quiet: whether to print nothing.

    Returns:
        The report; `splits` has the scores of each split, `folder` is where the report was written.

    Raises:
        UserError: naming everything wrong with the options, the model or the data.
    """
    from mat_ds.engine.group import process_group
    from mat_ds.evaluation.subject import load_subject
    from mat_ds.evaluation.whole import evaluate_subject as measure_all
    from mat_ds.terminal.display import Display

    load_plugins()
    asked = read_options(EvaluationOptions, as_overrides({**(options or {}), **keywords}))
    with session() as world:
        subject, found = load_subject(fspath(model), asked), {}
        compute_deterministically(warn_only=True)
        with process_group(world) as device:
            say = Display(world.rank == 0, quiet, False).say
            raising(lambda: found.update(measure_all(subject, asked, world, device, say)), world, "")
    return found
