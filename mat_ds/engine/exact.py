"""The fp32 values of weights that DeepSpeed only keeps in half precision, or rounds before it makes its masters of them."""

from __future__ import annotations

import torch
from torch import Tensor

from mat_ds.engine.shards import trainable
from mat_ds.ranks.collectives import own_rank

# Attribute of a parameter that was sharded in half precision: this rank's shard of its fp32 values; of a frozen one, on rank 0,
# all of them.
EXACT = "exact_shard"


def exact_values(module: torch.nn.Module, dtype: torch.dtype) -> tuple[dict[int, Tensor], dict[str, Tensor] | None]:
    """The fp32 values that DeepSpeed is going to round to the compute dtype, if that is another.

    Returns:
        Those of trained parameters, flat, by index; of a sharded one only this rank's shard. And those of frozen parameters, by
        name: on rank 0, which exports them, elsewhere none; None on every rank if none are needed: in fp32, and with
        adapters, which are exported without their base.
    """
    if dtype == torch.float32:
        return {}, None
    kept = {i: (p, p.__dict__.pop(EXACT, None)) for i, (_, p) in enumerate(trainable(module))}
    exact = {i: p.detach().reshape(-1).clone() if shard is None else shard for i, (p, shard) in kept.items()}
    if hasattr(module, "peft_config"):
        return exact, None
    frozen = [(name, p, p.__dict__.pop(EXACT, None)) for name, p in module.named_parameters() if not p.requires_grad]
    frozen = [] if own_rank() else frozen
    return exact, {name: p.detach().to("cpu", copy=True) if whole is None else whole for name, p, whole in frozen}
