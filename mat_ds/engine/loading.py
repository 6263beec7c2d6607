"""Reads a model's weights from their files directly into ZeRO-3 shards, one parameter at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from torch import nn

from mat_ds.engine.exact import EXACT
from mat_ds.engine.mesh import for_a_chain
from mat_ds.engine.shards import shard_numel
from mat_ds.models.unread import Unread
from mat_ds.ranks.chains import ONE_CHAIN, Chains
from mat_ds.ranks.collectives import broadcast_from_rank_zero, own_rank

# Parameters of up to this many elements are read into one shared tensor. Separate temporary tensors, allocated between shards
# that stay, would leave holes in the heap of up to a quarter of the model's size. glibc returns larger ones to the system.
SHARED = 1 << 23


@torch.no_grad()
def shard_unread(model: nn.Module, unread: Unread, ds_config: Mapping[str, Any], chains: Chains = ONE_CHAIN) -> None:
    """Shards a model whose weights are still in their files, so that no rank ever needs memory for all of it.

    The first rank of each chain reads one parameter at a time and distributes its shards. Does nothing if all weights have
    been read; DeepSpeed then shards the model itself. Adapters must have been added before: PEFT copies the head, and cannot
    copy sharded parameters.
    Every rank must call it.

    Args:
        model: in fp32 on the CPU, the same on every rank.
        unread: its parameters without memory, and where their values are.
        ds_config: a complete DeepSpeed configuration of stage 3.
        chains: those of the run, each of which has a model.
    """
    if not unread:
        return
    device = torch.device(get_accelerator().current_device_name())
    halves = {"fp16": torch.float16, "bf16": torch.bfloat16}
    dtype = next((half for name, half in halves.items() if ds_config.get(name, {}).get("enabled")), torch.float32)
    rank, adapted = own_rank(chains.inside), hasattr(model, "peft_config")
    first: Any = None
    parameter: Any
    shared = torch.empty(SHARED, device=device)
    for parameter in model.parameters():
        room = shared if parameter.numel() <= SHARED else torch.empty(parameter.numel(), device=device)
        value = room[: parameter.numel()].view(parameter.shape)
        if parameter in unread and rank == 0:
            unread[parameter].read_into(value)
        elif rank == 0:
            value.copy_(parameter)
        exact = parameter.requires_grad and dtype != torch.float32
        if exact:  # DeepSpeed would only distribute the rounded values
            broadcast_from_rank_zero(value, chains.inside)
        elif dtype != torch.float32 and rank == 0 and not adapted:
            setattr(parameter, EXACT, value.to("cpu", copy=True))
        parameter.data = value.to(dtype)
        if first is None:
            holder = nn.Module()
            holder.register_parameter("parameter", parameter)
            deepspeed.zero.Init(
                module=holder, data_parallel_group=chains.inside, config_dict_or_path=for_a_chain(ds_config, chains)
            )
            first = parameter
        else:
            first.convert_to_zero_parameters(param_list=[parameter])
        if exact:
            length = shard_numel(parameter)
            setattr(parameter, EXACT, value.view(-1)[rank * length : (rank + 1) * length].cpu().clone())
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)
