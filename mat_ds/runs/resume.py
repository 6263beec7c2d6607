"""Which checkpoint a run continues from, and whether it is still the same run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mat_ds.config.dotted import flatten
from mat_ds.config.yaml_files import read_yaml
from mat_ds.errors import Problem, UserError, raise_if_any
from mat_ds.runs.load import load_run_config
from mat_ds.runs.options import RunConfig
from mat_ds.storage.checkpoints import LATEST, checkpoints_of, latest_of, name_of
from mat_ds.storage.reading import read_json
from mat_ds.storage.rundir import RunDirectory

LOST = "bring it back from a copy, or start a run of its own in another output_dir"

# What may change when a run continues: where things lie, how long it goes on, how often it evaluates and saves, how a batch
# is cut, and all of `tracking`. Anything else would make the result one that no single set of options describes.
FREE = {
    "output_dir", "data.path", "data.bad_rows", "model.name", "model.gradient_checkpointing", "train.epochs", "train.max_steps",
    "train.micro_batch_size", "train.eval_micro_batch_size", "train.eval_per_epoch", "train.telemetry_every",
    "train.save_every", "train.save_minutes", "train.on_save_failure", "train.keep_last", "train.resume",
    "train.timeout_minutes", "train.deterministic",
}  # fmt: skip


def output_problems(run: RunConfig) -> Iterator[Problem]:
    """Whether the run's directory can be made."""
    path = Path(run.output_dir or "runs").absolute()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        yield Problem("output_dir", str(path), f"{existing} is no folder that can be written to", "name another folder")


def find_resume(run: RunConfig, ds_config: dict[str, Any]) -> list[Path]:
    """The checkpoints to continue from, in the order to try them; none: start afresh. What is in them is not read here.

    Args:
        run, ds_config: the run as it would go on; an empty DeepSpeed configuration is not compared.

    Raises:
        UserError: if the run directory is taken, or there is nothing to continue from.
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
        raise UserError(Problem("output_dir", run.output_dir, f"holds {_names(every)} and no config.yaml that says of what run",
                                "bring config.yaml back from a copy, or name another output_dir"))  # fmt: skip
    # A run that went on from another one is started again by the command that began it.
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


def _names(checkpoints: list[Path]) -> str:
    return ", ".join(checkpoint.name for checkpoint in reversed(checkpoints))


def _beyond(folder: Path, every: list[Path]) -> Problem:
    """Checkpoints that a run would pass over, and be begun anew."""
    return Problem(
        "train.resume",
        None,
        f"{folder / LATEST} names {name_of(latest_of(folder) or 0)}, which is earlier than all that there are: {_names(every)}",
        f"pass train.resume={every[0]}, or another output_dir to start afresh",
    )


def run_of(candidates: list[Path]) -> RunDirectory:
    """The run that checkpoints belong to."""
    return RunDirectory(candidates[0].parent.parent)


def _began_from(rundir: RunDirectory) -> str:
    """`train.resume` of the run in a directory."""
    return str(_options_of(rundir).get("train", {}).get("resume", "never"))


def changed_input(data: str, frozen: str, before: RunDirectory) -> Iterator[Problem]:
    """Whether a run would go on with other examples, another vocabulary or other frozen weights than it began with.

    Args:
        data, frozen: digests of what it would go on with.
        before: the run to continue.
    """
    environment = read_environment(before)
    if environment.get("data_sha256", data) != data:
        yield Problem(
            "data.path, model.name",
            None,
            f"examples or vocabulary are not those the run in {before.path} began with",
            "pass the same files, or start a run of its own",
        )
    if environment.get("frozen_sha256", frozen) != frozen:
        yield Problem(
            "model.name",
            None,
            f"its frozen weights are not those the run in {before.path} began with",
            "pass the same model, or start a run of its own",
        )


def read_environment(rundir: RunDirectory) -> dict[str, Any]:
    """What a run said of itself when it began; empty if it has not."""
    if not os.path.lexists(rundir.environment):
        return {}
    found = read_json(rundir.environment, LOST)
    starts = found.get("starts", [])
    if not found or not isinstance(starts, list) or not all(isinstance(start, dict) for start in starts):
        raise UserError(Problem(str(rundir.environment), None, "does not say how the run was started", LOST))
    return found


def changes(run: RunConfig, before: RunDirectory) -> dict[str, list[Any]]:
    """Options that are not what the run to continue had, by key: what it had and what it gets."""
    if not before.holds_a_run:
        return {}
    old, new = flatten(_options_of(before)), flatten(run.model_dump(mode="json"))
    return {key: [old.get(key), new.get(key)] for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)}


def _options_of(before: RunDirectory) -> dict[str, Any]:
    """A run's options; those it did not know yet have their defaults.

    Raises:
        UserError: if there are none that can be read.
    """
    found = read_yaml(before.config)
    if not all(isinstance(found.get(name), dict) for name in ("train", "model", "method")):  # every run has written them
        raise UserError(Problem(str(before.config), None, "does not hold the options of a run", LOST))
    try:
        # Which code its method came from is what it says, not what is loaded now.
        return {**load_run_config(before.config, ()).model_dump(mode="json"), "plugins": found.get("plugins", {})}
    except UserError:  # it knew others
        return found


def _changed_options(run: RunConfig, before: RunDirectory) -> Iterator[Problem]:
    """Options that would make it another run than the one to continue."""
    for key, (old, new) in changes(run, before).items():
        if key not in FREE and not key.startswith("tracking."):
            yield Problem(
                key,
                new,
                f"the run to continue ({before.path}) has {old!r}",
                "pass the same value, or start a run of its own in another output_dir",
            )


def _changed_precision(ds_config: dict[str, Any], before: RunDirectory) -> Iterator[Problem]:
    """Whether a run would go on in another precision; ranks, ZeRO stage and offload may change."""
    if not (environment := read_environment(before)) or not ds_config:
        return
    before_it = environment.get("deepspeed_config")
    if not isinstance(before_it, dict):
        raise UserError(Problem(str(before.environment), None, "does not say with what DeepSpeed configuration it ran", LOST))
    old, new = flatten(before_it), flatten(ds_config)
    for key in ("fp16.enabled", "bf16.enabled"):
        if old.get(key, False) != new.get(key, False):
            yield Problem(
                f"ds_config {key}",
                new.get(key, False),
                f"the run to continue ({before.path}) has {old.get(key, False)!r}",
                "pass a DeepSpeed configuration of the precision it began with",
            )
