"""`mat_ds.load`, `predict` and `evaluate`: use and evaluate trained models from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mat_ds.api.session import as_overrides, raising, session
from mat_ds.config.validation import read_options
from mat_ds.errors import Problem, UserError
from mat_ds.evaluation.options import EvaluationOptions
from mat_ds.evaluation.request import find_subject
from mat_ds.ranks.exits import compute_deterministically
from mat_ds.registry.locate import locate
from mat_ds.runs.plugins import load_plugins

if TYPE_CHECKING:
    from mat_ds.evaluation.predictor import Predictor

PathOrText = str | PathLike[str]
Plugins = PathOrText | Sequence[PathOrText]
Texts = Sequence[str | Sequence[str]]


def plugin_paths(plugin: Plugins) -> list[Path]:
    """The files that `plugin` names."""
    return [Path(path) for path in ([plugin] if isinstance(plugin, (str, PathLike)) else plugin)]


def load(
    model: PathOrText,
    task: str | None = None,
    *,
    calibrated: bool = False,
    max_new_tokens: int | None = None,
    mixture: bool = False,
    uncertainty: bool = False,
    abstain: float | None = None,
    plugin: Plugins = (),
) -> Predictor:
    """Loads a trained model in fp32, on the GPU if there is one.

    Args:
        model: a run, a model folder, a hub model, or `models:/NAME@ALIAS` of MLflow's registry.
        task: its task, if the model does not name one itself.
        calibrated: whether its probabilities are those at the temperature that was fitted on the dev splits.
        max_new_tokens: longest response of a model that writes text; None: half of what it was trained to read.
        mixture: whether the run's snapshots (`train.snapshots`) answer together: with the mean of their probabilities.
        uncertainty: the same, and whether answers say their `confidence`, `entropy` and `mutual_information` (nats).
        abstain: the same, and the largest share of wrong answers: those below the confidence that keeps it are None.
        plugin: a Python file, or several, to load first: it registers the model's task or method.

    Raises:
        UserError: if there is no such model, or it does not fit the task.
    """
    load_plugins(plugin_paths(plugin))
    folder = locate(fspath(model))
    from mat_ds.evaluation.mixture import as_mixture  # only now, as it imports torch: seconds
    from mat_ds.evaluation.predictor import load_predictor

    if abstain is not None and not 0 < abstain < 1:
        raise UserError(
            Problem("abstain", abstain, "is not a share of wrong answers", "pass one between 0 and 1, such as 0.05")
        )
    found = load_predictor(fspath(model), folder, task, calibrated=calibrated, max_new_tokens=max_new_tokens)
    return as_mixture(found, folder, uncertainty, abstain) if mixture or uncertainty or abstain is not None else found


def predict(model: PathOrText | Predictor, texts: Texts, batch_size: int = 32, *, plugin: Plugins = ()) -> list[dict[str, Any]]:
    """Predicts an answer per text or pair of texts: `label` and `probabilities`, `score` or `response`: `Predictor.predict`.

    Args:
        model, plugin: as for `load`, or what that returns.
        texts: texts, or pairs of texts if the task reads pairs.
        batch_size: texts per forward pass.
    """
    return (load(model, plugin=plugin) if isinstance(model, (str, PathLike)) else model).predict(texts, batch_size)


def evaluate(
    model: PathOrText,
    options: Mapping[str, Any] | None = None,
    /,
    *,
    plugin: Plugins = (),
    quiet: bool = True,
    **keywords: Any,
) -> dict[str, Any]:
    """Scores a model on the labelled splits of its task: clean, under attack and under noise, like `mat-ds evaluate`.

    Args:
        model, plugin: as for `load`.
        options, keywords: options of `mat-ds evaluate`, by dotted name or as one mapping per section.
        quiet: whether to print nothing.

    Returns:
        The report; `splits` has the scores of each split, `folder` is where the report was written.

    Raises:
        UserError: naming everything wrong with the options, the model or the data.
    """
    load_plugins(plugin_paths(plugin))
    asked = read_options(EvaluationOptions, as_overrides({**(options or {}), **keywords}))
    named = find_subject(fspath(model), asked)
    # Only now, as they import torch and DeepSpeed: seconds.
    from mat_ds.engine.group import process_group
    from mat_ds.evaluation.robustness import evaluate_subject as measure_all
    from mat_ds.evaluation.subject import load_subject
    from mat_ds.terminal.display import Display

    with session() as world:
        subject, found = load_subject(named, asked), {}
        compute_deterministically(warn_only=True)
        with process_group(world) as device:
            display = Display(world.rank == 0, quiet)
            raising(lambda: found.update(measure_all(subject, asked, world, device, display)), world, "")
    return found
