"""Permanent memory of one rank: weights, gradients, masters, moments, mixture, averages.

According to the sources of deepspeed 0.19.8 (`runtime/`; names of its functions and attributes in parentheses) and
`mat_ds/sampling/sampler.py`. P: elements of all parameters. T: elements of the trained parameters. N: number of ranks. b: bytes
of an element in the compute dtype. a: bytes of an element of the accumulated gradients (b, unless the JSON says otherwise).

A rank's part of T. Parameters are in two groups, matrices and vectors.
- ZeRO-0: T.
- ZeRO-1 and 2: each group rounded up to a multiple of 2 N, over N (`zero/stage_1_and_2.py`, `flatten_dense_tensors_aligned`).
- ZeRO-3: each parameter over N, rounded up (`zero/partition_parameters.py`, `_partition_param`).

Weights.
- ZeRO-0 to 2: b P. The trained parameters lie in one flat buffer of N parts.
- ZeRO-3: b times the parts; frozen parameters are sharded too. Parameters of up to `stage3_param_persistence_threshold`
  elements are also kept whole (`mark_persistent_parameters`). With one rank this costs nothing.

Masters: 4 part. At ZeRO-0 in fp32 they are the weights themselves. ZeRO-1 and 2 always clone the weights. ZeRO-3 does so too:
it is meant to use the shards, but compares their device with the name of a device (`_create_fp32_partitions`).

Moments (adam: 2, rmsprop: 1, sgd: 0), the mixture if the chain has one, each running average (`model.average`, SMART's
teacher), and what several chains keep that send their moves compressed: 4 part each, on the same device as the masters.

Gradients, after a backward pass.
- ZeRO-0: a T, in `.grad` until the update.
- ZeRO-1: b T with padding, in one buffer all the time (`mat_ds/engine/flat.py`). With offload, fp32 gradients of half-precision
  weights or DeepSpeed's profilers, that is not used: a T in `.grad`; of bf16 weights both (`bf16_optimizer.py`).
- ZeRO-2: b times the size of all parameters that overlap the part, whole (`copy_grads_in_partition`). If a is fp32 and b is
  not: a part (`_build_compact_grad_partition_buffer`).
- ZeRO-3: a part (`grad_partitions_flat_buffer`).

`offload_optimizer` moves everything but the weights to host memory, except the gradients of ZeRO-1. There the update needs 4
part for its own copy of the gradients and, at ZeRO-1 and 2, b part for the new weights. `offload_param` also moves the weights'
parts of ZeRO-3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from mat_ds.engine.zero import Zero
from mat_ds.sampling.chain import Chain
from mat_ds.sampling.updates import MOMENTS

# Bytes of an element of the masters, moments, mixture and averages.
MASTER = 4
PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}

When = Literal["always", "passes", "update"]


@dataclass(frozen=True)
class Weight:
    """One parameter.

    Attributes:
        numel: number of its elements.
        trained: whether it is trained.
        matrix: whether it is in the optimizer's group of matrices, not in that of vectors.
    """

    numel: int
    trained: bool
    matrix: bool


@dataclass(frozen=True)
class MemoryRow:
    """One item of the memory of the rank that needs most.

    Attributes:
        name: of the item.
        card, host: its bytes on the GPU and in host memory.
        note: an explanation.
        when: whether it exists always, during passes, or during an update.
    """

    name: str
    card: int = 0
    host: int = 0
    note: str = ""
    when: When = "always"


def placed(name: str, size: int, on_host: bool, note: str = "", when: When = "always") -> MemoryRow:
    """A row for bytes on the GPU or in host memory."""
    return MemoryRow(name, 0, size, note, when) if on_host else MemoryRow(name, size, 0, note, when)


def weights_of(module: nn.Module) -> list[Weight]:
    """The parameters of a model on any device."""
    return [Weight(p.numel(), p.requires_grad, p.ndim > 1) for p in module.parameters()]


def groups(weights: Sequence[Weight]) -> list[list[int]]:
    """Numbers of elements of the trained parameters in each group of the optimizer, in order."""
    found = [[w.numel for w in weights if w.trained and w.matrix is matrix] for matrix in (True, False)]
    return [group for group in found if group]


def parts(weights: Sequence[Weight], zero: Zero, ranks: int) -> list[int]:
    """Number of elements of each group that one rank updates."""
    if zero.stage == 0:
        return [sum(group) for group in groups(weights)]
    if zero.stage < 3:
        return [2 * _share(sum(group), 2 * ranks) for group in groups(weights)]
    return [sum(_share(numel, ranks) for numel in group) for group in groups(weights)]


def _share(numel: int, ranks: int) -> int:
    return -(-numel // ranks)


def reaching(weights: Sequence[Weight], zero: Zero, ranks: int) -> int:
    """Number of elements of all parameters that overlap one rank's parts, on the rank with the most."""
    totals = [0] * ranks
    for group, part in zip(groups(weights), parts(weights, zero, ranks), strict=True):
        begin = 0
        for numel in group:
            for rank in range(begin // part, _share(begin + numel, part)):
                totals[rank] += numel
            begin += numel
    return max(totals)


def persistent(weights: Sequence[Weight], zero: Zero) -> int:
    """Number of elements of the parameters that ZeRO-3 keeps whole."""
    total = 0
    for weight in weights:
        if weight.numel <= zero.persistent and weight.numel + total <= zero.persistent_total:
            total += weight.numel
    return total


def model_states(
    weights: Sequence[Weight], zero: Zero, ranks: int, chain: Chain, update: str, to_meet: Sequence[str] = ()
) -> Iterator[MemoryRow]:
    """Yields the permanent memory of the rank that needs most.

    Args:
        weights: the parameters.
        zero, ranks: how they are sharded.
        chain, update: the sampler's chain and update rule, which decide what it keeps.
        to_meet: what it keeps besides to meet other chains.
    """
    yield _weight_row(weights, zero, ranks)
    yield from _gradients(weights, zero, ranks)
    masters = 0 if zero.stage == 0 and zero.dtype == torch.float32 else 1
    kept = [
        ("masters", masters, "fp32 values of what is trained"),
        ("moments", len(MOMENTS[update]), f"of {update}"),
        ("mixture", int(chain.is_mixed), "of the parameters' samples"),
        ("ascent", int(chain.ascent is not None), "where it began"),
        *((name, 1, "running average of the parameters") for name in chain.averages),
        ("meeting", len(to_meet), "of chains: where they met last" + (", what rounding left out" if len(to_meet) > 1 else "")),
    ]
    for name, copies, note in kept:
        yield placed(name, MASTER * copies * sum(parts(weights, zero, ranks)), zero.offload_optimizer, note)


def _weight_row(weights: Sequence[Weight], zero: Zero, ranks: int) -> MemoryRow:
    size, frozen = zero.dtype.itemsize, [w.numel for w in weights if not w.trained]
    part, precision = sum(parts(weights, zero, ranks)), PRECISIONS[zero.dtype]
    if zero.stage < 3:
        copies = ranks if zero.stage else 1
        return MemoryRow("weights", size * (copies * part + sum(frozen)), note=precision)
    shards = size * (part + sum(_share(numel, ranks) for numel in frozen))
    whole = size * persistent(weights, zero) if ranks > 1 or zero.offload_param else 0
    note = f"{precision}, shards; parameters of up to {zero.persistent:,} elements whole"
    return MemoryRow("weights", whole, shards, note) if zero.offload_param else MemoryRow("weights", shards + whole, note=note)


def _gradients(weights: Sequence[Weight], zero: Zero, ranks: int) -> Iterator[MemoryRow]:
    part, size, kept = sum(parts(weights, zero, ranks)), zero.dtype.itemsize, zero.accumulated.itemsize
    if zero.flat:
        yield MemoryRow("gradients", size * ranks * part, note="whole, in one buffer")
    elif zero.stage < 2:
        trained = sum(w.numel for w in weights if w.trained)
        yield MemoryRow("gradients", (kept + zero.in_both_dtypes * size) * trained, note="whole, until the update")
    elif zero.stage == 3 or kept > size:
        yield placed("gradients", kept * part, zero.offload_optimizer, "shards")
    else:
        note = "of parameters that reach into this rank's part, whole"
        yield placed("gradients", size * reaching(weights, zero, ranks), zero.offload_optimizer, note)
    if zero.offload_optimizer and zero.stage:
        back = 0 if zero.stage == 3 else size * part
        yield MemoryRow("update on the host", 0, MASTER * part + back, "fp32 gradients, and new weights on their way back")
