"""The last lines of a run: its scores, where everything is, and what to do next."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mat_ds.errors import printable
from mat_ds.methods.base import units_text
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tasks.examples import TaskData
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.measures import METRICS, dev_loss
from mat_ds.tasks.spec import TaskSpec
from mat_ds.terminal.layout import wrapped
from mat_ds.training.announce import NAMES

# Words of a dev example in the command that predicts for it.
WORDS = 8


def conclusion(results: dict[str, Any], data: TaskData, rundir: RunDirectory, as_json: bool) -> str:
    """A summary of the results."""
    if as_json:
        return json.dumps({"run": str(rundir.path), **results})
    best, last, export = results["best"], results["last"], results["export"]
    same = "reproduces its score" if export["reproduces_reported"] else "does NOT reproduce the score reported in training"
    shown = dict.fromkeys((f"{export['score']:.4f} in {export['dtype']}", f"{export['score_fp32']:.4f} in float32"))
    lines = (
        f"result     {score_name(data.spec)} {best['score']:.4f} best (step {best['step']:,}), {last['score']:.4f} last, "
        f"{results['median_last_half']:.4f} median of the last half",
        *_losses(best, last),
        *_stop(results),
        f"speed      {results['seconds']:,.0f} s of training, {results['samples_per_second']:,.0f} examples/s",
        f"model      {rundir.model} {same} in plain transformers: {', '.join(shown)}",
        *([_way_to_load(rundir)] if (rundir.model / "adapter_config.json").exists() else []),
        *([f"plots      {rundir.plots}"] if any(rundir.plots.iterdir()) else []),
        f"report     {rundir.model / 'README.md'} (the model's card), {rundir.results}",
    )
    # Not broken into lines, so that it can be copied.
    return "\n".join(
        [*(wrapped(printable(line), NAMES) for line in lines), printable(f"next       {next_command(data, rundir)}")]
    )


def _losses(best: dict[str, Any], last: dict[str, Any]) -> Iterator[str]:
    """Yields a line with the dev loss, unless an earlier version made one of the evaluations."""
    at_best, at_last = dev_loss(best), dev_loss(last)
    if at_best is not None and at_last is not None:
        yield f"dev loss   {at_best:.4f} at the best evaluation, {at_last:.4f} last"


def _stop(results: dict[str, Any]) -> Iterator[str]:
    """Yields lines on what selected the model, if that is not the score, and on a training that ended early."""
    if by := results.get("select_by"):
        yield f"selected   by {by}: best is where that is best"
    stopping = results.get("early_stopping")
    if stopping and stopping["stopped"]:
        yield (
            f"ended      early, after {results['steps']:,} of {stopping['planned_steps']:,} steps: {stopping['reason']}; that "
            f"spared {units_text(stopping['forward_units_spared'])} forward units"
        )


def _way_to_load(rundir: RunDirectory) -> str:
    """How adapters are used without mat_ds."""
    merge = f"{program()} export {shlex.quote(str(rundir.path))} <folder> --merge"
    return f"adapters   of a base model: its card says how peft loads both; `{merge}` makes one model of them"


def score_name(spec: TaskSpec) -> str:
    """The number by which models are compared: the task's metric, or what it is the mean of."""
    metrics, splits = ", ".join(f"{'-' if METRICS[name].lower else ''}{name}" for name in spec.metrics), len(spec.dev)
    if len(spec.metrics) == splits == 1:
        return metrics
    return f"mean of {metrics}" + (f" over {splits} splits" if splits > 1 else "")


def next_command(data: TaskData, rundir: RunDirectory) -> str:
    """A command line that predicts with the run's model for the first dev example."""
    example = next((example for examples in data.dev.values() for example in examples), None)
    kind, count = kind_of(data.spec), len(data.spec.text)
    texts = [" ".join(text.split()[:WORDS]) for text in kind.typed(example)] if example else []
    if not kind.rows_of(texts) or not all(map(_is_plain, texts)):
        texts = ["some text"] * (count if kind.rows_of([""] * count) else count + max(2, len(data.spec.choices)))
    words = [str(rundir.path), *(word for text in texts for word in ("--text", text))]
    return f"{program()} predict {shlex.join(words)}"


def _is_plain(text: str) -> bool:
    """Whether a text can be an argument, and is printed as it is."""
    return bool(text) and text.isprintable() and not text.startswith("-")


def program() -> str:
    """The program `mat-ds` as a user has to type it here."""
    if shutil.which("mat-ds"):
        return "mat-ds"
    beside = Path(sys.executable).with_name("mat-ds")
    if not beside.exists():
        return shlex.join([sys.executable, "-m", "mat_ds.cli"])
    return shlex.quote(str(beside.relative_to(os.getcwd()) if beside.is_relative_to(os.getcwd()) else beside))
