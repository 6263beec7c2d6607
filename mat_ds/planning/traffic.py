"""Bytes that one rank sends in one outer step. In a ring, the slowest link carries as many.

In a ring of N ranks, an all-reduce of S bytes makes each rank send 2 (N-1)/N S bytes, and a gather or reduce-scatter (N-1)/N S.
According to the sources of deepspeed 0.19.8 (`runtime/`); letters as in `mat_ds/planning/states.py`:

| | for each backward pass | for each update |
|---|---|---|
| ZeRO-0 | | all-reduce of b T gradients (`engine.py`, `allreduce_gradients`) |
| ZeRO-1 | | reduce-scatter of b T gradients (`mat_ds/engine/flat.py`), gather of b T weights (`all_gather_dp_groups`) |
| ZeRO-2 | reduction of b T gradients (`allreduce_no_retain`) | gather of b T weights |
| ZeRO-3 | reduce-scatter of b T gradients (`reduce_scatter_coalesced`) | gather of what is persistent |

- Replacing the parameters by an average, and putting them back (SMART's teacher), each sends as much as an update.
- ZeRO-2 reduces each slice to its owner, as does ZeRO-1 where `flat.py` is not used (offload, fp32 gradients of fp16 weights;
  those of bf16 weights are all-reduced, `bf16_optimizer.py`). With `use_multi_rank_bucket_allreduce`, here the default with
  `overlap_comm` only, they all-reduce whole buckets, which sends twice as much.
- ZeRO-3 gathers b P bytes of weights, without the persistent ones, for each forward and each backward pass, including those of
  the perturbation's loop. Frozen parameters are gathered too. ZeRO-3 records the order in which parameters are used. If each
  backward pass follows its forward pass, this order is always the same: parameters are gathered in advance, and those that are
  used again within `stage3_max_reuse_distance` elements are kept for the backward pass. Any other order invalidates the record
  (`partitioned_param_coordinator.py`, `trace_prologue`), and each parameter is gathered when it is used.
- If it gathers the whole model for passes without gradients of the weights (`mat_ds/engine/gathering.py`), it does so once for
  those between two training passes or updates, and the record has training passes alone.
- Of several chains, each sends as much as a run of its ranks alone. Where they meet, it all-reduces its fp32 masters with the
  others, shard by shard (`mat_ds/ranks/chains.py`), or reduces and gathers their moves in fewer bytes (`compressed.py` there).
- With `overlap_comm`, ZeRO-3's default, gradients are reduced during the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mat_ds.engine.zero import Zero
from mat_ds.methods.settings import Divided
from mat_ds.planning.counts import PassCounts
from mat_ds.planning.states import Weight, persistent
from mat_ds.ranks.compressed import COMPRESSIONS
from mat_ds.sampling.updates import MOMENTS


@dataclass(frozen=True)
class Traffic:
    """Bytes that one rank sends in one outer step.

    Attributes:
        gradients, updates, passes: for gradients, for updated weights, and for weights that ZeRO-3 gathers in passes.
        beside: the bytes among these that can be sent while the rank computes.
        across: those that go to other chains, of a meeting the share of one outer step; all others stay within one.
    """

    gradients: float
    updates: float = 0.0
    passes: float = 0.0
    beside: float = 0.0
    across: float = 0.0

    @property
    def total(self) -> float:
        return self.gradients + self.updates + self.passes + self.across


def traffic(
    weights: Sequence[Weight], zero: Zero, ranks: int, tally: PassCounts, chains: int = 1, every: int = 1, met: float = 4.0,
    gathers_whole: bool = False,
) -> Traffic:  # fmt: skip
    """The bytes that one outer step sends.

    Args:
        weights: the parameters.
        zero, ranks: how they are sharded, and over how many.
        tally: the passes and updates of one rank in one outer step.
        chains: how many chains of so many ranks there are, whose masters are averaged where they meet.
        every: outer steps from one meeting to the next.
        met: bytes of a parameter that each reduces and gathers there (`meeting_bytes`).
        gathers_whole: whether ZeRO-3 gathers the whole model for passes without gradients of the weights.
    """
    once, size = (ranks - 1) / ranks, zero.dtype.itemsize
    trained, everything = sum(w.numel for w in weights if w.trained), sum(w.numel for w in weights)
    reductions = tally.backward.calls if zero.stage >= 2 else tally.updates
    to_owners = zero.stage > 0 and not zero.one_all_reduce and not zero.in_both_dtypes
    rounds = 1 if zero.stage == 3 or zero.flat or to_owners else 2
    across = 2 * (chains - 1) / chains * met * trained / (ranks if zero.stage else 1) / every
    gradients = reductions * rounds * once * trained * zero.sent.itemsize
    beside, told = gradients if zero.overlap else 0.0, tally.updates + tally.exchanges
    if zero.stage < 3:
        return Traffic(gradients, told * once * trained * size if zero.stage else 0.0, 0.0, beside, across)
    kept = persistent(weights, zero)
    ordered = tally.trained_one_by_one if gathers_whole else tally.one_by_one
    forward, back = tally.forward.graphs, tally.backward.graphs + tally.input_gradient.graphs
    if gathers_whole:
        forward = back = tally.backward.graphs
    gathered = once * size * (forward * (everything - kept) + back * (everything - kept - reused(weights, zero, ordered)))
    ahead = gathered if zero.overlap and ordered else 0.0
    at_once = once * size * tally.gathers * (everything - kept) if gathers_whole else 0.0
    return Traffic(gradients, told * once * kept * size, gathered + at_once, beside + ahead, across)


def meeting_bytes(divided: Divided, update: str) -> float:
    """Bytes of a parameter that a chain reduces and gathers with the others where they meet.

    Args:
        divided: what it sends.
        update: of the optimizer, which decides how many moments there are.
    """
    if compression := COMPRESSIONS.get(divided.compression):
        return compression.bytes
    return 4.0 * (1 + divided.average_moments * len(MOMENTS[update]))


def reused(weights: Sequence[Weight], zero: Zero, ordered: bool) -> int:
    """Number of elements that ZeRO-3 keeps from a forward pass for its backward pass, if one is `ordered` after the other.

    The distance from a parameter's use to its next one, forward to the end of the model and back, is twice the number of
    elements behind it.
    """
    divided = sum(w.numel for w in weights) - persistent(weights, zero)
    return min(divided, zero.reuse // 2) if ordered else 0
