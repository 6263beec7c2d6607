"""The fp32 master weights of a DeepSpeed engine of any ZeRO stage, by parameter.

The only module that knows how DeepSpeed stores them. The positions of parameters in its flat buffers are read from DeepSpeed,
never derived: parameter groups, `round_robin_gradients` and alignment change their order. They are compared with the weights
themselves, because noise, checkpoints and exports depend on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import deepspeed
import torch
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import Tensor

from mat_ds.ranks.chains import ONE_CHAIN, Chains
from mat_ds.ranks.collectives import all_reduce_sum, own_rank
from mat_ds.sampling.options import OptimizerConfig
from mat_ds.sampling.slices import Slice, places


def trainable(module: torch.nn.Module) -> list[tuple[str, Tensor]]:
    """Names and parameters that are trained; a `Slice` numbers them in this order."""
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]


def numel(parameter: Tensor) -> int:
    """Number of elements of the whole parameter, also where ZeRO-3 has sharded it."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def shard_numel(parameter: Any) -> int:
    """Number of elements of each rank's shard of a ZeRO-3 parameter, including the padding of the last rank's."""
    return int(parameter.ds_tensor.ds_numel)


def shape(parameter: Tensor) -> torch.Size:
    """Shape of the whole parameter, also where ZeRO-3 has sharded it."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def parameter_groups(model: torch.nn.Module, optimizer: OptimizerConfig) -> list[dict[str, Any]]:
    """Parameter groups of the trainable parameters, with weight decay only for matrices: vectors are biases and norms.
    Step sizes by layer are rates of slices and not groups, each of which DeepSpeed would send apart."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    common = {"lr": optimizer.lr, "betas": optimizer.betas, "alpha": optimizer.rmsprop_alpha, "eps": optimizer.eps}
    groups = (
        {"params": [p for p in trainable if len(shape(p)) > 1], "weight_decay": optimizer.weight_decay, **common},
        {"params": [p for p in trainable if len(shape(p)) <= 1], "weight_decay": 0.0, **common},
    )
    return [group for group in groups if group["params"]]


@dataclass(frozen=True)
class FlatGroup:
    """A parameter group as ZeRO-1 stores it.

    Attributes:
        weights: all its parameters in the compute dtype, flat, with padding; the ranks' parts are equally long.
        master: the fp32 values of this rank's part.
        parameters: its parameters, and where each begins in `weights`.
    """

    weights: Tensor
    master: Tensor
    parameters: list[tuple[Tensor, int]]


class Shards:
    """The fp32 master tensors of a DeepSpeed engine, and which slices of which parameters they contain.

    Args:
        ds: an engine just initialised, of any ZeRO stage and precision.
        rates: step sizes of parameters as multiples of the run's; 1 for those that are not in it.
        frozen: exact values of frozen parameters, as `exact_values` returned them.
        chains: those of the run; each has a model of its own.

    Attributes:
        slices: for each master tensor of this rank, the slices of parameters in it.
        replicated: whether every rank has all of them (ZeRO-0).
        rates: the smallest and the largest rate of a trained parameter.

    Raises:
        RuntimeError: on every rank, if the slices do not cover every trainable parameter exactly once, or do not have the
            values of their parameters.
    """

    def __init__(
        self, ds: DeepSpeedEngine, rates: Mapping[Tensor, float] | None = None, frozen: Mapping[str, Tensor] | None = None,
        chains: Chains = ONE_CHAIN,
    ):  # fmt: skip
        self._ds, self._frozen, self.chains = ds, frozen, chains
        self._names, parameters = map(list, zip(*trainable(ds.module), strict=True))
        rate = [(rates or {}).get(parameter, 1.0) for parameter in parameters]
        self.rates = min(rate), max(rate)
        self.replicated = ds.zero_optimization_stage() == 0
        self.slices: dict[Tensor, list[Slice]] = {}
        at = places([shape(parameter) for parameter in parameters])
        covered = torch.zeros(len(parameters) + 1, dtype=torch.float64, device=ds.device)
        for index, master, offset, start, length in _stretches(ds, parameters):
            if length <= 0:
                continue
            p = parameters[index]
            piece = Slice(index, numel(p), offset, start, length, at[index], rate[index], len(shape(p)) > 1)
            self.slices.setdefault(master, []).append(piece)
            covered[index] += length
            here = master.detach().view(-1)[start : start + length]
            there = _local_values(ds, p, offset, length)
            covered[-1] += not torch.equal(here.to(there), there)
        copies = ds.dp_world_size if self.replicated else 1
        expected = torch.tensor([*(numel(p) * copies for p in parameters), 0], dtype=torch.float64, device=ds.device)
        if not torch.equal(all_reduce_sum(covered, chains.inside), expected):
            raise RuntimeError("DeepSpeed's fp32 shards are not where it says they are; mat_ds knows deepspeed 0.19")

    def masters(self) -> Iterator[tuple[Tensor, list[tuple[str, Slice]]]]:
        """Each master tensor of this rank, with the names and slices of the parameters in it."""
        for master, pieces in self.slices.items():
            yield master, [(self._names[piece.parameter], piece) for piece in pieces]

    def take_gradients(self) -> list[FlatGroup]:
        """Ends what DeepSpeed's ZeRO-1 does with gradients after each backward; returns its parameter groups."""
        optimizer = self._ds.optimizer
        for hook in optimizer._grad_acc_hooks:
            hook.remove()
        optimizer._grad_acc_hooks.clear()
        parameters = zip(optimizer.round_robin_bit16_groups, optimizer.round_robin_bit16_offsets, strict=True)
        return [
            FlatGroup(weights, master, list(zip(group, offsets, strict=True)))
            for weights, master, (group, offsets) in zip(
                optimizer.bit16_groups_flat, optimizer.single_partition_of_fp32_groups, parameters, strict=True
            )
        ]

    @torch.no_grad()
    def whole(self, name: str) -> Tensor:
        """One whole parameter: its fp32 master, or a frozen one as it was. Every rank must call it; rank 0 gets it."""
        parameter = self._ds.module.get_parameter(name)
        if not parameter.requires_grad and self._frozen is not None:
            return self._frozen.get(name, parameter.detach())
        if not parameter.requires_grad:
            with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
                return parameter.detach().clone()
        whole = torch.zeros(numel(parameter), dtype=torch.float32, device=self._ds.device)
        for master, pieces in self.masters():
            for other, piece in pieces:
                if other == name:
                    source = master.detach().view(-1)[piece.start : piece.start + piece.numel]
                    whole[piece.offset : piece.offset + piece.numel].copy_(source)
        return (whole if self.replicated else all_reduce_sum(whole, self.chains.inside)).view(shape(parameter))

    @torch.no_grad()
    def refresh(self) -> None:
        """Copies the masters to the model's parameters, as DeepSpeed's own step does at its end. Every rank must call it."""
        optimizer = self._ds.optimizer
        if self._ds.zero_optimization_stage() == 3:
            optimizer._partition_all_parameters()
            for group in range(len(optimizer.fp16_groups)):
                optimizer._reassign_or_swap_out_partitioned_parameters(group)
            # Small parameters stay gathered on every rank; the copy above does not update them.
            if optimizer.persistent_parameters:
                optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)
        elif self._ds.zero_optimization():
            optimizer.update_lp_params()
        elif self._ds.fp16_enabled() or self._ds.bfloat16_enabled():
            for group, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
                for parameter, master in zip(group, masters, strict=True):
                    parameter.data.copy_(master.data)

    @torch.no_grad()
    def fill(self, values: Mapping[int, Tensor]) -> None:
        """Overwrites the masters with the exact values of trained parameters, as `exact_values` returned them."""
        for master, pieces in self.slices.items():
            for piece in pieces:
                whole = values[piece.parameter].numel() == piece.total
                first = piece.offset if whole else 0
                source = values[piece.parameter][first : first + piece.numel]
                master.view(-1)[piece.start : piece.start + piece.numel].copy_(source)

    def forget_gradients(self) -> None:
        """Zeroes the gradients that ZeRO-3 and offload keep: a parameter without a gradient in the next update would get the
        old one again."""
        kept = [getattr(self._ds.optimizer, "grad_partitions_flat_buffer", None), *(master.grad for master in self.slices)]
        for gradient in kept:
            if gradient is not None:
                gradient.zero_()


def _local_values(ds: DeepSpeedEngine, parameter: Any, offset: int, length: int) -> Tensor:
    """Elements `offset` to `offset + length` of a parameter of the model; under ZeRO-3, of this rank's shard."""
    if ds.zero_optimization_stage() == 3:
        return parameter.ds_tensor.detach()[:length]
    return parameter.detach().view(-1)[offset : offset + length]


def _stretches(ds: DeepSpeedEngine, parameters: Sequence[Any]) -> Iterator[tuple[int, Tensor, int, int, int]]:
    """Yields (index of a parameter, master tensor, offset in the parameter, start in the master, length) for each slice of
    this rank, as DeepSpeed stores them; a length of 0 or less means that there is none."""
    optimizer, index = ds.optimizer, {id(p): i for i, p in enumerate(parameters)}
    if ds.zero_optimization_stage() == 3:
        for group in optimizer.fp16_groups:
            for p in group:
                number, start, length = optimizer.grad_position[optimizer.get_param_id(p)]
                offset = length * own_rank(p.ds_process_group)
                real = min(length, p.ds_numel - offset)
                yield index[id(p)], optimizer.fp32_partitioned_groups_flat[number], offset, start, real
    elif hasattr(optimizer, "round_robin_bit16_groups"):
        # hp-fragment addresses cannot be used: DeepSpeed 0.19 computes them in the wrong order with round_robin_gradients.
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
