"""Which checkpoint a run continues from, and whether it is still the same run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mat_ds.config.schema import RunConfig
from mat_ds.engine import checkpoint
from mat_ds.engine.distributed import World
from mat_ds.errors import Problem, UserError, raise_if_any
from mat_ds.rundir import RunDirectory

# What may change when a run continues: where things lie, how long it goes on, how often it evaluates and saves, and how a
# batch is cut. Anything else would make the result one that no single set of options describes.
FREE = {
    "output_dir", "data.path", "model.name", "model.gradient_checkpointing", "train.epochs", "train.max_steps",
    "train.micro_batch_size", "train.eval_micro_batch_size", "train.eval_per_epoch", "train.telemetry_every",
    "train.save_every", "train.keep_last", "train.resume", "train.deterministic", "tracking.enabled",
}  # fmt: skip


def output_problems(run: RunConfig) -> Iterator[Problem]:
    """Whether the run's directory can be made."""
    path = Path(run.output_dir or "runs").absolute()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        yield Problem("output_dir", str(path), f"{existing} is no folder that can be written to", "name another folder")


def find_resume(run: RunConfig, ds_config: dict[str, Any], world: World) -> Path | None:
    """The checkpoint to continue from, None to start afresh.

    Args:
        run, ds_config, world: the run as it would go on; an empty DeepSpeed configuration is not compared.

    Raises:
        UserError: if the run directory is taken, or there is nothing to continue from.
    """
    rundir = RunDirectory(Path(run.output_dir)) if run.output_dir else None
    taken, resume = bool(rundir and rundir.holds_a_run), run.train.resume
    if resume == "never":
        if taken:
            raise UserError(Problem("output_dir", run.output_dir, "holds a run already, and nothing is overwritten",
                                    "pass train.resume=auto to continue it, or another output_dir"))  # fmt: skip
        return None
    # A run that went on from another one is started again by the command that began it.
    own = checkpoint.find(rundir.path) if rundir and taken else None
    origin = _began_from(rundir) if rundir and taken else "never"
    found = own if resume == "auto" or resume == origin else None
    if found is None and resume == "auto":
        if origin not in ("never", "auto"):
            raise UserError(Problem("train.resume", "auto", f"the run in {run.output_dir} has no checkpoint of its own yet",
                                    f"pass train.resume={origin}, from where it began"))  # fmt: skip
        if rundir:
            raise_if_any([*_changed_options(run, rundir), *_changed_shards(ds_config, world, rundir)])
        return None
    found = found or checkpoint.find(Path(resume))
    if found is None:
        raise UserError(Problem("train.resume", resume, "is neither a checkpoint nor a run directory with one",
                                "pass runs/<run> or runs/<run>/checkpoints/step-<n>"))  # fmt: skip
    if rundir is None and found.parent.name != "checkpoints":
        raise UserError(Problem("train.resume", resume, "does not lie in the checkpoints/ of a run",
                                "pass output_dir=<folder> for the run that goes on from it"))  # fmt: skip
    before = RunDirectory(found.parent.parent)
    raise_if_any([*_changed_options(run, before), *_changed_shards(ds_config, world, before)])
    if rundir and taken and resume != origin and rundir.path.resolve() != before.path.resolve():
        raise UserError(Problem("output_dir", run.output_dir, "holds another run than the one to continue",
                                "pass train.resume=auto to continue the run in it, or name a new folder"))  # fmt: skip
    return found


def _began_from(rundir: RunDirectory) -> str:
    """`train.resume` of the run in a directory."""
    return str(yaml.safe_load(rundir.config.read_text(encoding="utf-8"))["train"]["resume"])


def changed_input(data: str, frozen: str, resume_from: Path) -> Iterator[Problem]:
    """Whether a run would go on with other examples, another vocabulary or other frozen weights than it began with.

    Args:
        data, frozen: digests of what it would go on with.
        resume_from: the checkpoint to continue from.
    """
    environment = RunDirectory(resume_from.parent.parent).environment
    before = json.loads(environment.read_text(encoding="utf-8")) if environment.exists() else {}
    if before.get("data_sha256", data) != data:
        yield Problem("data.path, model.name", None, f"examples or vocabulary are not those the run in {environment.parent} "
                      "began with", "pass the same files, or start a run of its own")  # fmt: skip
    if before.get("frozen_sha256", frozen) != frozen:
        yield Problem("model.name", None, f"its frozen weights are not those the run in {environment.parent} began with",
                      "pass the same model, or start a run of its own")  # fmt: skip


def _changed_options(run: RunConfig, before: RunDirectory) -> Iterator[Problem]:
    """Options that are not what the run to continue began with."""
    if not before.holds_a_run:
        return
    old, new = _flat(yaml.safe_load(before.config.read_text(encoding="utf-8"))), _flat(run.model_dump(mode="json"))
    for key in sorted((old.keys() | new.keys()) - FREE):
        if old.get(key) != new.get(key):
            yield Problem(key, new.get(key), f"the run to continue ({before.path}) has {old.get(key)!r}",
                          "pass the same value, or start a run of its own in another output_dir")  # fmt: skip


def _changed_shards(ds_config: dict[str, Any], world: World, before: RunDirectory) -> Iterator[Problem]:
    """Whether the shards of a checkpoint were cut for another number of ranks, another ZeRO stage or another precision."""
    if not before.environment.exists() or not ds_config:
        return
    environment = json.loads(before.environment.read_text(encoding="utf-8"))
    old, new = _flat(environment["deepspeed_config"]), _flat(ds_config)
    if environment["world_size"] != world.size:
        yield Problem("ranks", world.size, f"the run to continue ({before.path}) has {environment['world_size']}",
                      "start as many")  # fmt: skip
    for key, default in (("zero_optimization.stage", 0), ("fp16.enabled", False), ("bf16.enabled", False)):
        if old.get(key, default) != new.get(key, default):
            yield Problem(f"ds_config {key}", new.get(key, default),
                          f"the run to continue ({before.path}) has {old.get(key, default)!r}",
                          "pass the DeepSpeed configuration it began with")  # fmt: skip


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping by dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
