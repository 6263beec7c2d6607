"""Which piece of which parameter lies where in this rank's fp32 master tensors, as DeepSpeed itself says.

The order of a flat buffer is never assumed: parameter groups, `round_robin_gradients` and alignment gaps reorder it.
What DeepSpeed says is checked against the weights themselves, since every sample's noise, every export and every fp32
start rests on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import Tensor

from mat_ds.ranks.collectives import all_reduce_sum, own_rank
from mat_ds.sampling.sampler import Slice

Shards = dict[Tensor, list[Slice]]

# Attribute of a parameter cut into shards in half precision: this rank's shard of its fp32 values.
EXACT = "exact_shard"


def trainable(module: torch.nn.Module) -> list[tuple[str, Tensor]]:
    """Names and parameters that are sampled, in the order that numbers them in every `Slice`."""
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]


def numel(parameter: Tensor) -> int:
    """Elements of the whole parameter, which ZeRO-3 keeps out of the tensor."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def shape(parameter: Tensor) -> torch.Size:
    """Shape of the whole parameter, which ZeRO-3 keeps out of the tensor."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def read_shards(ds: DeepSpeedEngine) -> Shards:
    """For each fp32 master tensor of this rank, the stretches of parameters in it.

    Args:
        ds: an engine just initialised, of any ZeRO stage and precision.

    Raises:
        RuntimeError: on every rank, if the stretches do not cover every trainable parameter exactly once, or do not hold
            the values of the parameters they are said to be of.
    """
    parameters = [p for _, p in trainable(ds.module)]
    shards: Shards = {}
    covered = torch.zeros(len(parameters) + 1, dtype=torch.float64, device=ds.device)
    for index, master, offset, start, length in _stretches(ds, parameters):
        if length <= 0:
            continue
        shards.setdefault(master, []).append(Slice(index, numel(parameters[index]), offset, start, length))
        covered[index] += length
        here = master.detach().view(-1)[start : start + length]
        there = _local_values(ds, parameters[index], offset, length)
        covered[-1] += not torch.equal(here.to(there), there)
    copies = ds.dp_world_size if ds.zero_optimization_stage() == 0 else 1
    expected = torch.tensor([*(numel(p) * copies for p in parameters), 0], dtype=torch.float64, device=ds.device)
    if not torch.equal(all_reduce_sum(covered), expected):
        raise RuntimeError("DeepSpeed's fp32 shards are not where it says they are; mat_ds knows deepspeed 0.19")
    return shards


def _local_values(ds: DeepSpeedEngine, parameter: Any, offset: int, length: int) -> Tensor:
    """The working copy of elements `offset ..` of a parameter, as far as this rank holds it."""
    if ds.zero_optimization_stage() == 3:
        return parameter.ds_tensor.detach()[:length]
    return parameter.detach().view(-1)[offset : offset + length]


def _stretches(ds: DeepSpeedEngine, parameters: Sequence[Any]) -> Iterator[tuple[int, Tensor, int, int, int]]:
    """(parameter index, master tensor, offset in the parameter, start in the master, length) of this rank."""
    optimizer, index = ds.optimizer, {id(p): i for i, p in enumerate(parameters)}
    if ds.zero_optimization_stage() == 3:
        for group in optimizer.fp16_groups:
            for p in group:
                number, start, length = optimizer.grad_position[optimizer.get_param_id(p)]
                offset = length * own_rank(p.ds_process_group)
                real = min(length, p.ds_numel - offset)
                yield index[id(p)], optimizer.fp32_partitioned_groups_flat[number], offset, start, real
    elif hasattr(optimizer, "round_robin_bit16_groups"):
        # Not the hp-fragment addresses: under round_robin_gradients DeepSpeed 0.19 computes them in the wrong order.
        for number, master in enumerate(optimizer.single_partition_of_fp32_groups):
            begin = own_rank(optimizer.real_dp_process_group[number]) * optimizer.partition_size[number]
            end = begin + optimizer.partition_size[number]
            flat = zip(optimizer.round_robin_bit16_groups[number], optimizer.round_robin_bit16_offsets[number], strict=True)
            for p, at in flat:
                first, last = max(at, begin), min(at + p.numel(), end)
                yield index[id(p)], master, first - at, first - begin, last - first
    elif ds.zero_optimization():  # ZeRO-1 with bf16 weights and fp32 accumulation has an optimizer of its own
        for p in parameters:
            if (mapping := p._hp_mapping) is not None:
                here, there = mapping.lp_fragment_address, mapping.hp_fragment_address
                master = optimizer.fp32_groups_flat_partition[mapping.param_group_index]
                yield index[id(p)], master, here.start, there.start, there.numel
    elif ds.fp16_enabled() or ds.bfloat16_enabled():
        for group, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
            for p, master in zip(group, masters, strict=True):
                yield index[id(p)], master, 0, 0, p.numel()
    else:
        for i, p in enumerate(parameters):
            yield i, p, 0, 0, p.numel()


def exact_values(module: torch.nn.Module) -> dict[int, Tensor]:
    """fp32 values of the trainable parameters, by index, flat: all of a whole one, this rank's shard of one cut into shards."""
    kept = {i: (p, p.__dict__.pop(EXACT, None)) for i, (_, p) in enumerate(trainable(module))}
    return {i: p.detach().reshape(-1).clone() if shard is None else shard for i, (p, shard) in kept.items()}


@torch.no_grad()
def fill_masters(shards: Shards, values: Mapping[int, Tensor]) -> None:
    """Overwrites the masters with what `exact_values` returned before DeepSpeed rounded it."""
    for master, pieces in shards.items():
        for piece in pieces:
            whole = values[piece.parameter].numel() == piece.total
            first = piece.offset if whole else 0
            source = values[piece.parameter][first : first + piece.numel]
            master.view(-1)[piece.start : piece.start + piece.numel].copy_(source)


@torch.no_grad()
def refresh(ds: DeepSpeedEngine) -> None:
    """Makes the working copies what the masters hold, as the end of DeepSpeed's own step does. Every rank must call it."""
    optimizer = ds.optimizer
    if ds.zero_optimization_stage() == 3:
        optimizer._partition_all_parameters()
        for group in range(len(optimizer.fp16_groups)):
            optimizer._reassign_or_swap_out_partitioned_parameters(group)
        # Biases and norms stay gathered on every rank, where the copy above does not reach them.
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)
    elif ds.zero_optimization():
        optimizer.update_lp_params()
    elif ds.fp16_enabled() or ds.bfloat16_enabled():
        for group, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
            for parameter, master in zip(group, masters, strict=True):
                parameter.data.copy_(master.data)


@torch.no_grad()
def gather_master(shards: Shards, index: int, parameter: Tensor, device: torch.device, replicated: bool) -> Tensor:
    """One whole parameter in fp32, on every rank. Every rank must call it.

    Args:
        shards: this rank's map.
        index: number of the parameter.
        parameter: the parameter, for its shape.
        device: where the process group can reduce.
        replicated: whether every rank holds the whole (ZeRO-0).
    """
    whole = torch.zeros(numel(parameter), dtype=torch.float32, device=device)
    for master, pieces in shards.items():
        for piece in pieces:
            if piece.parameter == index:
                source = master.detach().view(-1)[piece.start : piece.start + piece.numel]
                whole[piece.offset : piece.offset + piece.numel].copy_(source)
    return (whole if replicated else all_reduce_sum(whole)).view(shape(parameter))
