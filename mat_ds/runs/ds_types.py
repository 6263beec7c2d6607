"""Type checks for the DeepSpeed JSON; DeepSpeed checks few types before training starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from mat_ds.config.section import Count, Positive, Weight
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
# What measures DeepSpeed's own updates.
PROFILERS = {"flops_profiler", "comms_logger", "timers", "wall_clock_breakdown", "memory_breakdown"}
# Options of how DeepSpeed reduces gradients, which ZeRO-1 leaves to `mat_ds.engine.flat`.
OF_REDUCTION = ("reduce_bucket_size", "allgather_bucket_size", "contiguous_gradients", "reduce_scatter",
                "use_multi_rank_bucket_allreduce")  # fmt: skip
OFFLOADS = ("offload_optimizer", "offload_param")

Dtype = Literal["fp32", "fp16", "bf16"]
# Values that DeepSpeed accepts unchecked, but that would fail during training.
TYPES: dict[str, Any] = {
    "prescale_gradients": bool, "wall_clock_breakdown": bool, "memory_breakdown": bool, "dump_state": bool,
    "disable_python_gc": bool, "steps_per_print": Count, "gradient_predivide_factor": Positive,
    "communication_data_type": Dtype, "log_level": Literal["debug", "info", "warning", "error", "critical"],
    "data_types.grad_accum_dtype": Dtype, "data_types.param_dtype": Dtype, "data_types.buffer_dtype": Dtype,
    "flops_profiler.detailed": bool, "flops_profiler.profile_step": Count, "flops_profiler.module_depth": int,
    "flops_profiler.top_modules": Count, "flops_profiler.recompute_fwd_factor": Weight,
    "fp16.hysteresis": Count,  # with other values an overflowing loss scale would never shrink
    "fp16.initial_scale_power": Annotated[int, Field(ge=0, le=64)],
    "zero_optimization.overlap_comm": bool, "zero_optimization.compute_grad_norm": bool,
}  # fmt: skip
# DeepSpeed understands "auto" at the top level and in fp16; in zero_optimization it is taken out before.
WITH_AUTO = ("", "fp16", "zero_optimization")
PRECISION = (
    "write true or false, as the precision is part of the algorithm: bf16 for cards of compute capability 8.0 or more, fp16 "
    "for older ones, and neither for fp32"
)


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
            fix = PRECISION if path in ("fp16", "bf16") else "write true or false"
            yield Problem(f"ds_config {path}.enabled", value["enabled"], "is neither true nor false", fix)
        elif not isinstance(value.get("params", {}), dict):
            yield Problem(f"ds_config {path}.params", value["params"], "is not a JSON object", "delete it")
        for key in value.keys() - KEYS[path] if isinstance(value, dict) and path in KEYS else ():
            yield Problem(
                f"ds_config {path}.{key}", value[key], "is not a key that DeepSpeed reads there", nearest(key, KEYS[path])
            )
    stage = zero.get("stage", 0) if isinstance(zero, dict) else 0
    if isinstance(stage, bool) or stage not in (0, 1, 2, 3):
        yield Problem("ds_config zero_optimization.stage", stage, "is not a ZeRO stage", "write 0, 1, 2 or 3")
    for path, kind in TYPES.items():
        section, _, key = path.rpartition(".")
        place = tree.get(section, {}) if section else tree
        value = place.get(key) if isinstance(place, dict) else None
        if value is None or (value == "auto" and section in WITH_AUTO):
            continue
        try:
            TypeAdapter(kind).validate_python(value, strict=True)
        except ValidationError as error:
            yield Problem(f"ds_config {path}", value, error.errors()[0]["msg"].lower(), "write such a value, or delete it")


def idle(tree: Tree, gather: str = "auto") -> Iterator[str]:
    """Yields a message for each part of the JSON that has no effect.

    Args:
        tree: the user's JSON, already type-checked.
        gather: `model.gather`, which has an effect at stage 3 only.
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
        if gather != "auto":
            yield f"model.gather={gather} does nothing at ZeRO stage {stage}, where no weights are gathered, only at 3"
    reduces_itself = stage == 1 and "offload_optimizer" not in zero and not {"data_types", *PROFILERS} & tree.keys()
    if reduces_itself and (of_reduction := [key for key in OF_REDUCTION if key in zero]):
        yield f"ds_config zero_optimization: {', '.join(of_reduction)} do nothing at ZeRO stage 1, only at 2 and 3"
    if stage == 0 and "offload_optimizer" in zero:
        yield "ds_config zero_optimization: offload_optimizer does nothing at ZeRO stage 0, only from 1"
    for section in ("fp16", "bf16"):
        if section in tree and tree[section].get("enabled", False) is False and tree[section].keys() - {"enabled"}:
            yield f'ds_config {section} does nothing without "enabled": true'
