"""The memory and communication settings of a DeepSpeed configuration, with DeepSpeed's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Zero:
    """The settings that decide memory and communication.

    Attributes:
        stage: 0, 1, 2 or 3.
        dtype: of weights, passes and their gradients.
        accumulated: dtype of gradients kept between backwards (`data_types.grad_accum_dtype`).
        sent: dtype of gradients in communication (`communication_data_type`).
        offload_optimizer, offload_param: whether masters and moments, and weight shards, are in host memory.
        overlap: whether communication overlaps with passes (`overlap_comm`).
        flat: whether gradients and updates of ZeRO-1 are ours (`mat_ds.engine.flat`) and not DeepSpeed's.
        one_all_reduce: whether DeepSpeed's ZeRO-1 and 2 reduce a bucket for all ranks at once
            (`use_multi_rank_bucket_allreduce`).
        bucket: elements of the gradient reduction buffer (`reduce_bucket_size`).
        prefetch: elements that ZeRO-3 gathers ahead of use.
        persistent: ZeRO-3 keeps parameters of up to this many elements whole, in total up to `persistent_total`.
        reuse: ZeRO-3 keeps a parameter that is used again within this many elements.
    """

    stage: int
    dtype: torch.dtype
    accumulated: torch.dtype
    sent: torch.dtype
    offload_optimizer: bool
    offload_param: bool
    overlap: bool
    flat: bool
    one_all_reduce: bool
    bucket: int
    prefetch: int
    persistent: int
    persistent_total: int
    reuse: int

    @property
    def in_both_dtypes(self) -> bool:
        """Whether DeepSpeed keeps gradients in the dtype of passes and in fp32: its ZeRO-1 in bf16 with fp32 accumulation."""
        return self.stage == 1 and self.dtype == torch.bfloat16 and self.accumulated == torch.float32


def whole_fits(size: int, free: float) -> bool:
    """Whether `model.gather=auto` gathers the whole model: where that takes at most a third of the memory that is free before
    any pass. Where training passes fit into all of it, passes without gradients of the weights fit into the rest: they have
    half of a pair, or do not keep the inputs of linear layers, two fifths of what a transformer's layer keeps.

    Args:
        size: bytes of the model in the compute dtype.
        free: bytes.
    """
    return 3 * size <= free


def read_zero(completed: Mapping[str, Any]) -> Zero:
    """Reads a configuration returned by `mat_ds.runs.ds_config.complete`."""
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    zero = DeepSpeedZeroConfig(**completed["zero_optimization"])
    dtype = next((DTYPES[name] for name in ("fp16", "bf16") if completed.get(name, {}).get("enabled")), torch.float32)
    accumulated = str(completed.get("data_types", {}).get("grad_accum_dtype"))
    sent = str(completed.get("communication_data_type"))
    offload = zero.offload_optimizer is not None and zero.offload_optimizer.device != "none"
    flat = zero.stage == 1 and not offload and DTYPES.get(accumulated, dtype) == dtype and not _step_is_measured(completed)
    return Zero(
        int(zero.stage), dtype, DTYPES.get(accumulated, dtype), DTYPES.get(sent, dtype), offload,
        zero.offload_param is not None and zero.offload_param.device != "none",
        bool(zero.overlap_comm), flat,
        bool(zero.use_multi_rank_bucket_allreduce and zero.reduce_scatter) or not zero.reduce_scatter,
        zero.reduce_bucket_size, zero.prefetch_bucket_size, zero.param_persistence_threshold,
        zero.model_persistence_threshold, zero.max_reuse_distance,
    )  # fmt: skip


def _step_is_measured(completed: Mapping[str, Any]) -> bool:
    """Whether DeepSpeed is to measure its own passes and updates."""
    flags = (completed.get(name) for name in ("wall_clock_breakdown", "memory_breakdown"))
    profilers = (completed.get(name, {}).get("enabled") for name in ("flops_profiler", "comms_logger"))
    return any((*flags, *profilers, completed.get("timers", {}).get("throughput", {}).get("enabled")))
