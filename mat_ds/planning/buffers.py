"""Temporary memory of one rank: buckets, gathered parameters, copies in an update.

According to the sources of deepspeed 0.19.8 (`runtime/`; names of its functions and attributes in parentheses) and
`mat_ds/sampling/`. Letters as in `mat_ds/planning/states.py`, and R: `reduce_bucket_size`, F: `stage3_prefetch_bucket_size`,
L: elements of the largest parameter.

During passes:
- ZeRO-2, and ZeRO-1 where `mat_ds/engine/flat.py` is not used: a bucket of b R bytes, two with `overlap_comm`
  (`setup_buckets`), and a flat copy of its contents (`allreduce_bucket`): b max(L, min(R, T)). In every backward pass of an
  update except the first, ZeRO-2 also has the gradients of the pass before they are added to the others
  (`grads_in_partition`). Offload needs a buffer of b L bytes (`temp_grad_buffer_for_gpu_offload`).
- ZeRO-1 with `mat_ds/engine/flat.py`: the gradient of a parameter before it is added to the others, b L.
- ZeRO-3: a bucket of R elements in the dtype of communication, all the time (`_setup_for_real_optimizer`), and a copy of its
  contents (`reduce_scatter_coalesced`). Gathered parameters: those of the current layer, F elements ahead of it, and those that
  will be reused (`mat_ds/planning/traffic.py`). The flat buffer of the last gather (`AllGatherCoalescedHandle.wait`).

During an update, when activations and all of the above have been freed:
- The flat gradient of the larger group, in the dtype of gradients and, if that is not fp32, also in fp32 (`step`). Before that,
  ZeRO-1 with DeepSpeed's updates needs what ZeRO-2 needs in passes (`reduce_gradients`); with those of `mat_ds/engine/flat.py`
  4 part for this rank's sums of gradients (none with one rank in fp32), and those of one group as they are sent. ZeRO-0 needs
  a flat copy of up to 5e8 elements for an all-reduce, and then, in half precision, fp32 gradients of all parameters
  (`fp16/unfused_optimizer.py`).
- The sampler's temporaries for a group (ZeRO-0: for a parameter) on a card. Either a root (rmsprop: 4 part, with weight decay
  8 part; adam needs none), or a chunk of noise, or, in steps with telemetry, a copy in fp32 and a square in fp64: 20 part.
  With step sizes by layer it is less, as a layer is updated at a time.

In every `train.telemetry_every`-th outer step, telemetry keeps a copy of the masters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from mat_ds.engine.zero import Zero
from mat_ds.planning.counts import PassCounts
from mat_ds.planning.states import MASTER, MemoryRow, Weight, parts, persistent, placed, reaching
from mat_ds.planning.traffic import reused
from mat_ds.runs.options import RunConfig
from mat_ds.sampling.chain import Chain
from mat_ds.sampling.keys import CHUNK

# deepspeed.runtime.engine.MEMORY_OPT_ALLREDUCE_SIZE
REPLICATED_BUCKET = 500_000_000


def transient(
    weights: Sequence[Weight], zero: Zero, ranks: int, run: RunConfig, chain: Chain, tally: PassCounts, ordered: bool
) -> Iterator[MemoryRow]:
    """Yields the temporary memory of the rank that needs most.

    Args:
        weights: the parameters.
        zero, ranks: how they are sharded.
        run, chain: what the sampler does, and whether there is telemetry.
        tally: the passes of one rank in one outer step.
        ordered: whether ZeRO-3 knows the order of its passes (`PassCounts.one_by_one`, or `trained_one_by_one` if it gathers
            the whole model for the others).
    """
    if zero.stage in (1, 2) and not zero.flat:
        yield from _buckets(weights, zero, ranks, accumulates=tally.backward.calls > tally.updates)
    elif zero.flat:
        largest = zero.dtype.itemsize * _trained(weights)[1]
        yield MemoryRow("gradient", largest, 0, "of the largest parameter, before it joins the others", "passes")
    elif zero.stage == 3:
        yield from _gathered(weights, zero, ranks, ordered)
    if every := run.train.telemetry_every:
        copy = MASTER * sum(parts(weights, zero, ranks))
        yield placed("telemetry", copy, zero.offload_optimizer, f"a copy of the masters, every {every} steps")
    copies = _update(weights, zero, ranks, run, chain)
    yield placed("copies", copies, zero.offload_optimizer, "flat gradients, roots, noise", "update")


def _trained(weights: Sequence[Weight]) -> tuple[int, int]:
    """Number of elements of all trained parameters, and of the largest of them."""
    sizes = [w.numel for w in weights if w.trained]
    return sum(sizes), max(sizes)


def _buckets(weights: Sequence[Weight], zero: Zero, ranks: int, accumulates: bool) -> Iterator[MemoryRow]:
    size, (total, largest) = zero.dtype.itemsize, _trained(weights)
    elements = zero.bucket * (2 if zero.overlap else 1) + max(largest, min(zero.bucket, total))
    yield MemoryRow("reduce bucket", size * elements, 0, f"{zero.bucket:,} elements, and a copy of what is in it", "passes")
    if zero.stage == 2 and accumulates and not zero.offload_optimizer and zero.accumulated == zero.dtype:
        held = size * reaching(weights, zero, ranks)
        yield MemoryRow("gradients of a pass", held, 0, "before they join those of the passes before", "passes")
    if zero.offload_optimizer:
        yield MemoryRow("offload buffer", size * largest, size * largest, "for the largest parameter's gradient")


def _gathered(weights: Sequence[Weight], zero: Zero, ranks: int, ordered: bool) -> Iterator[MemoryRow]:
    size, (total, largest) = zero.dtype.itemsize, _trained(weights)
    yield MemoryRow("reduce bucket", zero.sent.itemsize * zero.bucket, 0, f"{zero.bucket:,} elements")
    yield MemoryRow("reduce copy", zero.sent.itemsize * max(largest, min(zero.bucket, total)), 0, "of what is in it", "passes")
    if ranks == 1 and not zero.offload_param:
        return  # parameters are views of their only shard, so gathering copies nothing
    biggest, divided = max(w.numel for w in weights), sum(w.numel for w in weights) - persistent(weights, zero)
    live = min(divided, reused(weights, zero, ordered) + zero.prefetch + biggest)
    yield MemoryRow("gathered parameters", size * live, 0, "whole while they are in use, or soon will be", "passes")
    if ranks > 1:
        yield MemoryRow("gather buffer", size * max(biggest, min(zero.prefetch, divided)), 0, "in which they come", "passes")


def _update(weights: Sequence[Weight], zero: Zero, ranks: int, run: RunConfig, chain: Chain) -> int:
    """Bytes of the copies in an update of the larger group."""
    part, (total, largest) = max(parts(weights, zero, ranks)), _trained(weights)
    widened = 0 if zero.accumulated == torch.float32 else MASTER
    flat = (zero.accumulated.itemsize + widened) * part
    if zero.stage == 0:
        flat = max(zero.dtype.itemsize * min(total, REPLICATED_BUCKET + largest), widened * total)
        part = largest
    elif zero.flat:
        flat = _own_sums(parts(weights, zero, ranks), zero, ranks)
    elif zero.offload_optimizer:
        flat = 0  # `model_states` has a row for it
    decayed = 2 if run.optimizer.weight_decay else 1
    roots = decayed * MASTER * part if run.optimizer.name == "rmsprop" else 0
    noise = MASTER * min(largest, CHUNK) if chain.noise else 0
    watched = 20 * part if run.train.telemetry_every else 0
    return max(_reduction(weights, zero, ranks), flat + max(roots, noise, watched))


def _own_sums(own: Sequence[int], zero: Zero, ranks: int) -> int:
    """Bytes of this rank's parts of the sums of gradients at ZeRO-1, from the numbers of elements of its groups."""
    if ranks == 1 and zero.sent == zero.dtype == torch.float32:
        return 0
    sent = zero.sent.itemsize * max(own)
    whole = ranks * sent if zero.sent != zero.dtype else 0
    return MASTER * sum(own) + whole + (sent if ranks > 1 and zero.sent != torch.float32 else 0)


def _reduction(weights: Sequence[Weight], zero: Zero, ranks: int) -> int:
    """Bytes that ZeRO-1 needs in addition to its gradients at the beginning of an update."""
    if zero.stage != 1 or zero.flat or zero.offload_optimizer:
        return 0
    total, largest = _trained(weights)
    moved = min(zero.bucket, total)  # moved from `.grad` to the bucket
    return zero.dtype.itemsize * (zero.bucket - moved + max(largest, moved) + reaching(weights, zero, ranks))
