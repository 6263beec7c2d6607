"""Finishes a run: checks the exported model in plain transformers, writes test predictions, results and model card."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mat_ds.artifacts.calibrated import write_temperature
from mat_ds.artifacts.card import write_card
from mat_ds.artifacts.described import Description, write_description
from mat_ds.artifacts.exported import load_exported, weight_bytes
from mat_ds.artifacts.finished import read_finished
from mat_ds.errors import NonFiniteError, SaveError, masked
from mat_ds.evaluation.scores import Evaluator, Forward, Outcome, Scores
from mat_ds.ranks.collectives import any_rank, on_rank_zero
from mat_ds.storage.disk import write_json, write_text
from mat_ds.storage.progress import Progress
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tasks.example import Example
from mat_ds.tasks.examples import dev_fingerprint
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.kinds.base import Kind
from mat_ds.tasks.kinds.outputs import SUBMISSION_HEADER
from mat_ds.tasks.measures import METRICS
from mat_ds.tasks.ranking import undefined
from mat_ds.tasks.spec import TaskSpec
from mat_ds.terminal.display import show
from mat_ds.tracking.destination import is_remote
from mat_ds.training.findings import findings
from mat_ds.training.mixture import score_mixture
from mat_ds.training.selection import stopping_result
from mat_ds.training.setup import Setup, Size

# A shorter run has no curves worth plotting.
STEPS_OF_A_CURVE = 10


class Trained(NamedTuple):
    """A run after its last outer step.

    Attributes:
        rundir: its directory, with the exported model.
        progress: its steps and scores.
        dtype: the compute dtype.
        size: of the model.
        planned: outer steps that the options ask for, of which `train.early_stopping` may have spared some.
    """

    rundir: RunDirectory
    progress: Progress
    dtype: torch.dtype
    size: Size
    planned: int


def finish(setup: Setup, trained: Trained, evaluator: Evaluator, still_ours: Callable[[], None]) -> dict[str, Any]:
    """Scores `model/` with plain transformers, predicts the test splits, and writes `results.json` and the model card.

    Every rank must call it, after the engine has released its memory.

    Args:
        setup: of the run.
        trained: what training left.
        evaluator: makes the predictions.
        still_ours: called by rank 0 before it writes; raises `Displaced` (then on every rank) if another job took the
            directory.

    Raises:
        SaveError: on every rank, if no model could be exported, or the disk refuses a file.
    """
    run, data, kind = setup.options.run, setup.data.examples, setup.data.kind
    rundir, progress, dtype, size, planned = trained

    def write(function: Callable[[], None]) -> None:
        def written() -> None:
            still_ours()
            function()

        on_rank_zero(written)

    reported, wanted = progress.in_model, progress.best if run.train.export == "best" else progress.evaluations[-1]
    if reported is None:
        raise SaveError(f"training has ended, but {rundir.model} could not be written, for want of room or of a working disk")
    results = {
        "task": data.spec.name,
        "method": run.method.name,
        "seed": run.seed,
        "world_size": evaluator.world.size,
        "parameters": {"all": size.parameters, "trained": size.trained},
        **progress.results(),
        **({"select_by": run.train.select_by} if run.train.select_by else {}),
        **stopping_result(run, progress.evaluations, progress.step, planned),
        **({} if reported is wanted else {"exported": reported}),  # the disk had no room for the wanted one
        "export": {
            "which": run.train.export if reported is wanted else "exported",
            "step": reported["step"],
            "dtype": str(dtype).removeprefix("torch."),
        },
        "test": {},
        "dev_sha256": dev_fingerprint(data.spec, data.dev),
    }
    # Written before loading models, which might not fit into memory.
    write(lambda: write_json(rundir.results, results, still_ours))
    # A model that only fits onto the GPUs with ZeRO-3 is scored on the CPU.
    device = evaluator.device
    device = torch.device("cpu") if any_rank(not _fits(rundir.model, device), device) else device
    model = _load(kind, rundir.model, dtype, device)
    predicted = {split: evaluator.predict(model, examples, split) for split, examples in data.dev.items()}
    splits, score = evaluator.scores_of(predicted, data.dev)
    write(lambda: write_dev_predictions(data.spec, predicted, data.dev, rundir))
    results |= on_rank_zero(lambda: findings(data.spec, predicted, data.dev))
    # A response without a label has no score, and is what `mat-ds predict` writes.
    for split, examples in () if kind.generates and not data.spec.test_labelled else data.test.items():
        try:
            found = evaluator.predict(model, examples, split)
        except NonFiniteError:  # longer texts than in training may overflow fp16
            found = evaluator.predict(_load(kind, rundir.model, torch.float32, device), examples, split)
        if data.spec.test_labelled:
            results["test"][split] = evaluator.metrics_of(found, examples)
            if without := undefined(data.spec, examples):
                results.setdefault("undefined", {})[split] = without
        if not kind.generates:
            write(partial(write_predictions, data.spec, split, found.kept, examples, rundir))
    del model
    exact = score
    if dtype != torch.float32:
        exact = evaluator.scores(_load(kind, rundir.model, torch.float32, device), data.dev)[1]
    load = partial(_load, kind, dtype=torch.float32, device=device)
    results |= score_mixture(kind, rundir, data.dev, evaluator, load, still_ours)
    results["export"] |= {"score": score, "score_fp32": exact, "reproduces_reported": _same(data.spec, splits, reported)}

    def describe() -> None:
        write_json(rundir.results, results, still_ours)
        write_description(rundir.model, Description(data.spec, setup.data.max_length))
        if calibration := results.get("calibration"):
            write_temperature(rundir.model, calibration)
        write_card(read_finished(rundir.path), rundir.model)
        if progress.step >= STEPS_OF_A_CURVE:
            _draw(rundir)

    write(describe)
    return results


def register_finished(run: Path, name: str, uri: str | None) -> None:
    """Registers the model of a run that has just finished; a failure is only a warning.

    Args:
        run: its directory.
        name: of the registered model.
        uri: its `tracking.uri`, validated.
    """
    from mat_ds.registry.versions import register

    given = uri if is_remote(uri) else None
    try:
        show(f"registered models:/{name}/{register(run, name, given)[0]}", sys.stderr)
    except Exception as error:
        again = shlex.join(["mat-ds", "register", str(run), name, *(["--uri", given] if given else [])])
        show(f"*** WARNING: not registered: {masked(str(error))}\n`{again}` does it", sys.stderr)


def _draw(rundir: RunDirectory) -> None:
    """Plots the run's curves; a failure is only a warning."""
    from mat_ds.reports.curves import plot_run  # imported late: matplotlib takes a second

    try:
        plot_run(rundir)
    except Exception as error:
        show(f"*** WARNING: its curves are not drawn: {error}; `mat-ds report` draws them", sys.stderr)


def _fits(folder: Path, device: torch.device) -> bool:
    """Whether the device has room for the model in fp32, and half as much again for a pass."""
    return device.type != "cuda" or 1.5 * weight_bytes(folder) < torch.cuda.mem_get_info(device)[0]


def _same(spec: TaskSpec, found: Scores, reported: dict[str, Any]) -> bool:
    """Whether no prediction changed, since a changed one moves a counted metric by more than the tolerance. Correlations and
    errors depend on logits, whose last bits may vary with the memory alignment of the weights."""
    return all(
        math.isclose(metrics[name], reported[split][name], rel_tol=1e-4 * METRICS[name].lower, abs_tol=1e-6)
        for split, metrics in found.items()
        for name in spec.metrics
    )


def _load(kind: Kind, folder: Path, dtype: torch.dtype, device: torch.device) -> Forward:
    """The exported model, loaded with plain transformers, as a function from inputs to logits."""
    model = load_exported(folder, dtype, device)

    def forward(inputs: dict[str, Tensor]) -> Tensor:
        moved = {name: value.to(device) for name, value in inputs.items()}
        return kind.read(model(**moved), moved).to(inputs["input_ids"].device)

    return forward


def write_dev_predictions(
    spec: TaskSpec, predicted: Mapping[str, Outcome], dev: Mapping[str, Sequence[Example]], rundir: RunDirectory
) -> None:
    """Writes a JSON line per example of each dev split, like `mat-ds predict`, plus the `gold` label."""
    kind = kind_of(spec)
    for split, found in predicted.items():
        kept, examples = kind.wholes(found.kept.numpy(), dev[split])
        pairs = zip(kind.answers(kept, examples), examples, strict=True)
        lines = [{"index": i, **answer, "gold": kind.gold_of(example)} for i, (answer, example) in enumerate(pairs)]
        text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
        write_text(rundir.predictions / f"{split}.jsonl", text)


def write_predictions(spec: TaskSpec, split: str, kept: Tensor, examples: Sequence[Example], rundir: RunDirectory) -> None:
    """Writes a GLUE submission file: tab-separated `index` and `prediction`."""
    kind = kind_of(spec)
    submitted = kind.submitted(*kind.wholes(kept.numpy(), examples))
    lines = [SUBMISSION_HEADER, *(f"{i}\t{value}" for i, value in enumerate(submitted))]
    write_text(rundir.predictions / spec.submission.get(split, f"{split}.tsv"), "\n".join(lines) + "\n")
