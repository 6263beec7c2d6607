"""Checks the user's DeepSpeed JSON against DeepSpeed itself and this machine's devices."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pydantic import ValidationError

from mat_ds.errors import Problem, nearest
from mat_ds.ranks.world import World
from mat_ds.runs.ds_config import RECIPE_SECTIONS, REFUSED, Tree, complete, json_problems, owned_values
from mat_ds.runs.ds_types import type_problems
from mat_ds.runs.options import RunConfig, batch_problems

JSON_KEYS = {
    "zero_optimization", "fp16", "bf16", "data_types", "communication_data_type", "prescale_gradients",
    "gradient_predivide_factor", "activation_checkpointing", "comms_logger", "flops_profiler", "wall_clock_breakdown",
    "memory_breakdown", "dump_state", "steps_per_print", "timers", "log_level", "disable_python_gc",
}  # fmt: skip

# DeepSpeed's config classes -> the section they validate.
SECTION_OF = {
    "DeepSpeedZeroConfig": "zero_optimization",
    "DeepSpeedFP16Config": "fp16",
    "DeepSpeedBF16Config": "bf16",
    "CommsLoggerConfig": "comms_logger",
    "DeepSpeedThroughputTimerConfig": "timers.throughput",
}


def ds_config_problems(tree: Tree, run: RunConfig, world: World, here: bool = True) -> Iterator[Problem]:
    """Yields a problem for everything in the JSON that is unknown, contradicts the recipe, or cannot work. `here`: also check
    this machine's devices."""
    found = list(json_problems(tree, run, world))
    if not list(type_problems(tree)):
        removed = list(_removed_problems(tree))
        gone = {problem.key.removeprefix("ds_config ") for problem in removed}
        known = JSON_KEYS | RECIPE_SECTIONS.keys() | REFUSED.keys() | owned_values(run, world).keys() | gone
        unknown = (key for key in tree if key not in known)
        found = [*removed, *(_unknown(key, tree[key]) for key in unknown), *found, *(precision_problems(tree) if here else ())]
    if not found and not list(batch_problems(run.train, world.size)):
        found += _deepspeed_problems(complete(tree, run, world), world)
    yield from found


def _unknown(key: str, value: object) -> Problem:
    return Problem(f"ds_config {key}", value, "is not a DeepSpeed section that mat_ds passes on", nearest(key, JSON_KEYS))


def _removed_problems(tree: Tree) -> Iterator[Problem]:
    """Yields problems for sections that DeepSpeed has removed, with DeepSpeed's explanation."""
    from deepspeed.runtime import config

    for path, section in (("", tree), ("zero_optimization.", tree.get("zero_optimization", {}))):
        table = config._REMOVED_ZERO_CONFIG_KEYS if path else config._REMOVED_TOP_LEVEL_CONFIG_KEYS
        for key in section.keys() & table.keys():
            yield Problem(f"ds_config {path}{key}", section[key], table[key], "delete it")


def precision_problems(tree: Tree) -> Iterator[Problem]:
    """Yields a problem if this machine's devices cannot compute in the requested precision."""
    fp16, bf16 = (tree.get(key, {}).get("enabled") is True for key in ("fp16", "bf16"))
    if fp16 and bf16:
        yield Problem("ds_config fp16.enabled, bf16.enabled", True, "a run computes in one precision", "enable one of the two")
    elif bf16 and torch.cuda.is_available():
        # torch.cuda.is_bf16_supported() says yes on a V100, where bf16 is emulated.
        (major, minor), card = min((torch.cuda.get_device_capability(i), i) for i in range(torch.cuda.device_count()))
        if major < 8:
            yield Problem(
                "ds_config bf16.enabled",
                True,
                f"{torch.cuda.get_device_name(card)} has compute capability {major}.{minor}; bf16 needs 8.0",
                "take --ds_config zero2_v100_fp16, or fp32",
            )
    elif fp16 and not torch.cuda.is_available() and not cpu_has_fp16():
        yield Problem("ds_config fp16.enabled", True, "this machine has no GPU, and its CPU no fp16 kernels",
                      "take --ds_config zero2 (fp32)")  # fmt: skip


def cpu_has_fp16() -> bool:
    """Whether DeepSpeed finds fp16 kernels for this CPU."""
    from deepspeed.accelerator import get_accelerator

    return bool(get_accelerator().is_fp16_supported())


def _deepspeed_problems(completed: Tree, world: World) -> Iterator[Problem]:
    """Runs DeepSpeed's own validation, as for a single rank, since ranks are not connected yet."""
    from deepspeed.runtime.config import DeepSpeedConfig

    alone = {**completed, "train_batch_size": completed["train_batch_size"] // world.size}
    alone = {key: value for key, value in alone.items() if value != "auto"}
    try:
        DeepSpeedConfig(alone)
    except ValidationError as error:
        section = SECTION_OF.get(error.title, error.title)
        for found in error.errors():
            place = ".".join((section, *map(str, found["loc"])))
            yield Problem(f"ds_config {place}", found["input"], f"DeepSpeed refuses it: {found['msg']}", "mend it or delete it")
    except Exception as error:
        yield Problem("--ds_config", None, f"DeepSpeed refuses it: {error}", "mend or delete what it names")
