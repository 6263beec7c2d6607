"""Type checks for the DeepSpeed JSON; DeepSpeed checks few types before training starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, get_args

from pydantic import BaseModel

from mat_ds.errors import Problem, nearest

Tree = dict[str, Any]

SECTIONS = ("zero_optimization", "fp16", "bf16", "optimizer", "scheduler", "data_types", "activation_checkpointing",
            "comms_logger", "flops_profiler", "timers")  # fmt: skip
# Known keys of sections in which DeepSpeed ignores unknown ones.
KEYS = {
    "data_types": {"grad_accum_dtype", "param_dtype", "buffer_dtype", "keep_in_fp32_modules"},
    "flops_profiler": {"enabled", "recompute_fwd_factor", "profile_step", "module_depth", "top_modules", "detailed",
                       "output_file"},
    "timers": {"throughput"},
    "activation_checkpointing": {"partition_activations", "contiguous_memory_optimization", "cpu_checkpointing",
                                 "number_checkpoints", "synchronize_checkpoint_boundary", "profile"},
    "optimizer": {"type", "params", "legacy_fusion"},
    "scheduler": {"type", "params"},
}  # fmt: skip
OFFLOADS = ("offload_optimizer", "offload_param")

Check = Callable[[Any], bool]


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_whole(value: Any) -> bool:
    return type(value) is int


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _one_of(*words: str) -> Check:
    return lambda value: isinstance(value, str) and value in words


BOOL, COUNT = (_is_bool, "write true or false"), (_is_count, "write a whole number from 1")
WHOLE = (_is_whole, "write a whole number")
LEVELS, DTYPES = ("debug", "info", "warning", "error", "critical"), ("fp32", "fp16", "bf16")
# Values that DeepSpeed accepts unchecked, but that would fail during training.
TYPES: dict[str, tuple[Check, str]] = {
    "prescale_gradients": BOOL, "wall_clock_breakdown": BOOL, "memory_breakdown": BOOL, "dump_state": BOOL,
    "disable_python_gc": BOOL,
    "steps_per_print": COUNT,
    "gradient_predivide_factor": (_is_positive, "write a number above 0"),
    "communication_data_type": (_one_of(*DTYPES), f"write one of {', '.join(DTYPES)}"),
    "log_level": (_one_of(*LEVELS), f"write one of {', '.join(LEVELS)}"),
    "data_types.grad_accum_dtype": (_one_of(*DTYPES), f"write one of {', '.join(DTYPES)}"),
    "data_types.param_dtype": (_one_of(*DTYPES), f"write one of {', '.join(DTYPES)}"),
    "data_types.buffer_dtype": (_one_of(*DTYPES), f"write one of {', '.join(DTYPES)}"),
    "flops_profiler.enabled": BOOL, "flops_profiler.detailed": BOOL, "flops_profiler.profile_step": COUNT,
    "flops_profiler.module_depth": WHOLE, "flops_profiler.top_modules": COUNT,
    "flops_profiler.recompute_fwd_factor": (lambda value: type(value) in (int, float) and value >= 0, "write a number from 0"),
    # DeepSpeed would overwrite an existing file, and the JSON may come from a stranger.
    "flops_profiler.output_file": (lambda value: False, "delete it: the profile is printed"),
    "fp16.hysteresis": COUNT,  # with other values an overflowing loss scale would never shrink
    "fp16.initial_scale_power": (lambda value: _is_whole(value) and 0 <= value <= 64, "write a whole number from 0 to 64"),
}  # fmt: skip


def type_problems(tree: Tree) -> Iterator[Problem]:
    """Yields a problem for each value of a type that a later check or training step could not handle."""
    zero = tree.get("zero_optimization", {})
    sections = {key: tree[key] for key in SECTIONS if key in tree}
    if isinstance(zero, dict):
        sections |= {f"zero_optimization.{key}": zero[key] for key in OFFLOADS if key in zero}
    if isinstance(timers := tree.get("timers"), dict) and "throughput" in timers:
        sections["timers.throughput"] = timers["throughput"]
    for path, value in sections.items():
        if not isinstance(value, dict):
            yield Problem(f"ds_config {path}", value, "is not a JSON object", 'write {"key": value}, or delete it')
        elif not isinstance(value.get("enabled", True), bool):
            yield _undecided(path, value["enabled"])
        elif not isinstance(value.get("params", {}), dict):
            yield Problem(f"ds_config {path}.params", value["params"], "is not a JSON object", "delete it")
        for key in value.keys() - KEYS[path] if isinstance(value, dict) and path in KEYS else ():
            yield Problem(
                f"ds_config {path}.{key}", value[key], "is not a key that DeepSpeed reads there", nearest(key, KEYS[path])
            )
    stage = zero.get("stage", 0) if isinstance(zero, dict) else 0
    if isinstance(stage, bool) or stage not in (0, 1, 2, 3):
        yield Problem("ds_config zero_optimization.stage", stage, "is not a ZeRO stage", "write 0, 1, 2 or 3")
    for path, (check, fix) in TYPES.items():
        section, _, key = path.rpartition(".")
        place = tree.get(section, {}) if section else tree
        # DeepSpeed understands "auto" at the top level and in fp16, but not in other sections.
        welcome = (None, "auto") if section in ("", "fp16") else (None,)
        if isinstance(place, dict) and key in place and place[key] not in welcome and path != f"{section}.enabled":
            value = place[key]
            if not check(value):
                yield Problem(f"ds_config {path}", value, "is not a value that DeepSpeed accepts there", fix)
    yield from _switches(sections)


def _switches(sections: Tree) -> Iterator[Problem]:
    """Yields a problem for each text in place of a boolean, which DeepSpeed would convert to one."""
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.runtime.zero.offload_config import DeepSpeedZeroOffloadOptimizerConfig, DeepSpeedZeroOffloadParamConfig
    from deepspeed.utils.config import DeepSpeedThroughputTimerConfig

    schemas: dict[str, type[BaseModel]] = {
        "zero_optimization": DeepSpeedZeroConfig,
        "fp16": DeepSpeedFP16Config,
        "bf16": DeepSpeedBF16Config,
        "zero_optimization.offload_optimizer": DeepSpeedZeroOffloadOptimizerConfig,
        "zero_optimization.offload_param": DeepSpeedZeroOffloadParamConfig,
        "comms_logger": CommsLoggerConfig,
        "timers.throughput": DeepSpeedThroughputTimerConfig,
    }
    for path, schema in schemas.items():
        section = sections.get(path)
        kinds = {field.alias or name: field.annotation for name, field in schema.model_fields.items()}
        for key, value in section.items() if isinstance(section, dict) else ():
            kind = kinds.get(key)
            switch = kind is bool or bool in get_args(kind)
            if switch and key != "enabled" and value != "auto" and not isinstance(value, bool):
                yield Problem(f"ds_config {path}.{key}", value, "is neither true nor false", "write true or false")


def _undecided(path: str, value: Any) -> Problem:
    """The problem that `enabled` is not a boolean; for "auto", with a recommended precision."""
    if value != "auto" or path not in ("fp16", "bf16"):
        return Problem(f"ds_config {path}.enabled", value, "is neither true nor false", "write true or false")
    import torch

    cards = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    if cards:
        best = "bf16" if min(torch.cuda.get_device_capability(i)[0] for i in cards) >= 8 else "fp16"
        here = f"for the cards of this machine {best} enabled, or neither for fp32"
    else:
        here = "on this machine, which has no GPU, false for both"
    return Problem(
        f"ds_config {path}.enabled",
        value,
        "cannot be auto: the precision is part of the algorithm, and no option of the recipe sets it",
        f"write true or false: {here}",
    )


def idle(tree: Tree) -> Iterator[str]:
    """Yields a message for each part of the JSON that has no effect.

    Args:
        tree: the user's JSON, already type-checked.
    """
    zero = tree.get("zero_optimization", {})
    stage = zero.get("stage", 0)
    if "activation_checkpointing" in tree:
        yield (
            "ds_config activation_checkpointing does nothing here: DeepSpeed applies it to models written for it; "
            "model.gradient_checkpointing=true recomputes activations"
        )
    if stage != 3:
        of_three = [key for key in zero if key.startswith("stage3_") or key in ("offload_param", "sub_group_size")]
        if of_three:
            yield f"ds_config zero_optimization: {', '.join(of_three)} do nothing at ZeRO stage {stage}, only at 3"
    if stage == 0 and "offload_optimizer" in zero:
        yield "ds_config zero_optimization: offload_optimizer does nothing at ZeRO stage 0, only from 1"
    for section in ("fp16", "bf16"):
        if section in tree and tree[section].get("enabled", False) is False and tree[section].keys() - {"enabled"}:
            yield f'ds_config {section} does nothing without "enabled": true'
