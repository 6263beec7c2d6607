"""Finds the checkpoint a run continues from, and checks that it is still the same run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mat_ds.config.dotted import flatten
from mat_ds.config.yaml_files import read_yaml
from mat_ds.errors import Problem, UserError, raise_if_any
from mat_ds.runs.load import GONE, forget_gone, hint_at, load_run_config
from mat_ds.runs.options import RunConfig
from mat_ds.storage.checkpoints import LATEST, checkpoints_of, latest_of, name_of
from mat_ds.storage.reading import read_json
from mat_ds.storage.rundir import RunDirectory

LOST = "bring it back from a copy, or start a run of its own in another output_dir"

# Options that may change when a run is resumed: paths, duration, early stopping, how often it evaluates and saves,
# micro-batch sizes, and all of `tracking`. With any other change no single set of options would describe the result.
FREE = {
    "output_dir", "data.train", "data.validation", "data.path", "data.revision", "data.bad_rows", "model.name",
    "model.revision", "model.gradient_checkpointing", "model.gather", "model.compile", "train.epochs", "train.max_steps",
    "train.budget",
    "train.micro_batch_size", "train.eval_micro_batch_size", "train.eval_per_epoch", "train.telemetry_every",
    "train.save_every", "train.snapshots", "train.save_minutes", "train.on_save_failure", "train.keep_last", "train.resume",
    "train.timeout_minutes", "train.deterministic",
    "train.early_stopping", "train.early_stopping.patience", "train.early_stopping.min_delta",
}  # fmt: skip


def output_problems(run: RunConfig) -> Iterator[Problem]:
    """Checks that the run directory can be created."""
    path = Path(run.output_dir or "runs").absolute()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        yield Problem("output_dir", str(path), f"{existing} is not a writable folder", "name another folder")


def find_resume(run: RunConfig, ds_config: dict[str, Any]) -> list[Path]:
    """The checkpoints to try to resume from, best first; empty: start from scratch. Their contents are not read here.

    Args:
        run, ds_config: the options as they are now; an empty DeepSpeed configuration is not compared.

    Raises:
        UserError: if the run directory is taken, or there is nothing to resume from.
    """
    rundir = RunDirectory(Path(run.output_dir)) if run.output_dir else None
    every = checkpoints_of(rundir.path, beyond_latest=True) if rundir else []
    taken, resume = bool(rundir and (rundir.holds_a_run or every)), run.train.resume
    if resume == "never":
        if taken:
            raise UserError(Problem("output_dir", run.output_dir, "holds a run already, and nothing is overwritten",
                                    "pass train.resume=auto to continue it, or another output_dir"))  # fmt: skip
        return []
    if rundir and every and not rundir.holds_a_run:
        raise UserError(Problem("output_dir", run.output_dir, f"holds {_joined(every)} but no config.yaml to describe them",
                                "bring config.yaml back from a copy, or name another output_dir"))  # fmt: skip
    # A run that was started from another run's checkpoint may be restarted by the same command.
    own = checkpoints_of(rundir.path) if rundir and taken else []
    origin = _began_from(rundir) if rundir and taken else "never"
    found = own if resume in ("auto", origin) else []
    if rundir and not found and resume in ("auto", origin) and every:
        raise UserError(_beyond(rundir.checkpoints, every))
    if not found and resume == "auto":
        if origin not in ("never", "auto"):
            raise UserError(Problem("train.resume", "auto", f"the run in {run.output_dir} has no checkpoint of its own yet",
                                    f"pass train.resume={origin}, from where it began"))  # fmt: skip
        if rundir:
            raise_if_any([*_changed_options(run, rundir), *_changed_precision(ds_config, rundir)])
        return []
    found = found or checkpoints_of(Path(resume))
    if not found and (others := checkpoints_of(Path(resume), beyond_latest=True)):
        raise UserError(_beyond(others[0].parent, others))
    if not found:
        raise UserError(Problem("train.resume", resume, "is neither a checkpoint nor a run directory with one",
                                "pass runs/<run> or runs/<run>/checkpoints/step-<n>"))  # fmt: skip
    if rundir is None and found[0].parent.name != "checkpoints":
        raise UserError(Problem("train.resume", resume, "does not lie in the checkpoints/ of a run",
                                "pass output_dir=<folder> for the run that goes on from it"))  # fmt: skip
    before = run_of(found)
    raise_if_any([*_changed_options(run, before), *_changed_precision(ds_config, before)])
    if rundir and taken and resume != origin and rundir.path.resolve() != before.path.resolve():
        raise UserError(Problem("output_dir", run.output_dir, "holds another run than the one to continue",
                                "pass train.resume=auto to continue the run in it, or name a new folder"))  # fmt: skip
    return found


def recorded_micro_batch(run: RunConfig, checkpoints: list[Path], world_size: int) -> int | None:
    """The micro-batch of the run to continue, whose dropout it decides; None if there is no such run, or if that does not
    divide the share of these ranks."""
    before = run_of(checkpoints) if checkpoints else RunDirectory(Path(run.output_dir)) if run.output_dir else None
    if before is None or not before.holds_a_run:
        return None
    size = _options_of(before)["train"].get("micro_batch_size")
    return size if isinstance(size, int) and run.train.batch_size // world_size % size == 0 else None


def _joined(checkpoints: list[Path]) -> str:
    return ", ".join(checkpoint.name for checkpoint in reversed(checkpoints))


def _beyond(folder: Path, every: list[Path]) -> Problem:
    """The problem that `latest` names an earlier step than every checkpoint, so that the run would silently start over."""
    named = name_of(latest_of(folder) or 0)
    reason = f"{folder / LATEST} names {named}, which is earlier than every checkpoint: {_joined(every)}"
    return Problem("train.resume", None, reason, f"pass train.resume={every[0]}, or another output_dir to start afresh")


def run_of(candidates: list[Path]) -> RunDirectory:
    """The run directory that the checkpoints belong to."""
    return RunDirectory(candidates[0].parent.parent)


def _began_from(rundir: RunDirectory) -> str:
    """The `train.resume` that the run in a directory was started with."""
    return str(_options_of(rundir).get("train", {}).get("resume", "never"))


def changed_input(data: str, frozen: str, before: RunDirectory) -> Iterator[Problem]:
    """Checks that a resumed run has the same examples, vocabulary and frozen weights.

    Args:
        data, frozen: digests of the current ones.
        before: the run to continue.
    """
    environment = read_environment(before)
    for key, now, option, what in (
        ("data_sha256", data, "data.path, model.name", "examples or vocabulary"),
        ("frozen_sha256", frozen, "model.name", "its frozen weights"),
    ):
        if environment.get(key, now) != now:
            reason = f"{what} are not those the run in {before.path} began with"
            yield Problem(option, None, reason, "pass the same files, or start a run of its own")


def read_environment(rundir: RunDirectory) -> dict[str, Any]:
    """A run's environment.json; empty if it does not exist."""
    if not os.path.lexists(rundir.environment):
        return {}
    found = read_json(rundir.environment, LOST)
    starts = found.get("starts", [])
    if not found or not isinstance(starts, list) or not all(isinstance(start, dict) for start in starts):
        raise UserError(Problem(str(rundir.environment), None, "does not say how the run was started", LOST))
    return found


def changes(run: RunConfig, before: RunDirectory) -> dict[str, list[Any]]:
    """The options that differ from those of the run to continue: key -> [old value, new value]."""
    if not before.holds_a_run:
        return {}
    old, new = flatten(_options_of(before)), flatten(run.model_dump(mode="json"))
    return {key: [old.get(key), new.get(key)] for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)}


def _options_of(before: RunDirectory) -> dict[str, Any]:
    """A run's options; options that did not exist when it was written have their defaults.

    Raises:
        UserError: if config.yaml cannot be read or does not hold a run's options.
    """
    found = read_yaml(before.config)
    if not all(isinstance(found.get(name), dict) for name in ("train", "model", "method")):  # every run writes these sections
        raise UserError(Problem(str(before.config), None, "does not hold the options of a run", LOST))
    try:
        options = load_run_config(before.config, ()).model_dump(mode="json")
        options["train"]["resume"] = found["train"].get("resume", "never")
        # Keep the recorded plugins, not those that are loaded now.
        return {**options, "output_dir": found.get("output_dir"), "plugins": found.get("plugins", {})}
    except UserError:  # an older version with other options wrote it
        forget_gone(found)
        return found


def _changed_options(run: RunConfig, before: RunDirectory) -> Iterator[Problem]:
    """Yields a problem for each changed option that may not change in a run."""
    for key, (old, new) in changes(run, before).items():
        if key not in FREE and not key.startswith("tracking."):
            gone = hint_at(key) if key in GONE else None
            fix = gone or "pass the same value, or start a run of its own in another output_dir"
            yield Problem(key, new, f"the run to continue ({before.path}) has {old!r}", fix)


def _changed_precision(ds_config: dict[str, Any], before: RunDirectory) -> Iterator[Problem]:
    """Checks that the precision is unchanged; ranks, ZeRO stage and offload may change."""
    if not (environment := read_environment(before)) or not ds_config:
        return
    before_it = environment.get("deepspeed_config")
    if not isinstance(before_it, dict):
        raise UserError(Problem(str(before.environment), None, "does not hold the run's DeepSpeed configuration", LOST))
    old, new = flatten(before_it), flatten(ds_config)
    for key in ("fp16.enabled", "bf16.enabled"):
        if old.get(key, False) != new.get(key, False):
            reason = f"the run to continue ({before.path}) has {old.get(key, False)!r}"
            fix = "pass a DeepSpeed configuration of the precision it began with"
            yield Problem(f"ds_config {key}", new.get(key, False), reason, fix)
