"""Bytes that one rank sends in one outer step, in rings: over the slowest link of a ring go as many.

A ring of N ranks all-reduces S bytes by sending 2 (N-1)/N S from each, and gathers or reduce-scatters them by sending
(N-1)/N S. From the sources of deepspeed 0.19.8 (`runtime/`), letters as in `mat_ds/planning/states.py`:

| | for every backward | for every update |
|---|---|---|
| ZeRO-0 | | all-reduce of b T gradients (`engine.py`, `allreduce_gradients`) |
| ZeRO-1 | | all-reduce of b T gradients (`reduce_gradients`), gather of b T weights (`all_gather_dp_groups`) |
| ZeRO-2 | all-reduce of b T gradients (`allreduce_and_scatter`) | gather of b T weights |
| ZeRO-3 | reduce-scatter of b T gradients (`reduce_scatter_coalesced`) | gather of what is persistent |

- An average that takes the parameters' place, or gives it back (SMART's teacher), is told to all ranks like an update.
- Without `use_multi_rank_bucket_allreduce` ZeRO-1 and 2 reduce each slice to its owner, which sends half as much.
- ZeRO-3 gathers b P weights, less the persistent ones, for every pass through the model and every walk back through one; the
  perturbation's loop pays too, and frozen parameters are gathered like the others. It recognises a pass by its place in a
  recorded order. Where every pass is walked back before the next is made the order holds: gathers come ahead of their
  use, and what is wanted again within `stage3_max_reuse_distance` elements is kept for the walk back. Any other order breaks
  the record (`partitioned_param_coordinator.py`, `trace_prologue`), and everything is gathered when it is used.
- With `overlap_comm`, ZeRO-3's default, gradients are reduced beside the backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mat_ds.engine.zero import Zero
from mat_ds.planning.rehearsal import PassCounts
from mat_ds.planning.states import Weight, persistent


@dataclass(frozen=True)
class Traffic:
    """Bytes one rank sends in one outer step.

    Attributes:
        gradients, updates, passes: for gradients, for updated weights, and for weights that ZeRO-3 gathers in passes.
        beside: of these, what can be sent while the rank computes.
    """

    gradients: float
    updates: float = 0.0
    passes: float = 0.0
    beside: float = 0.0

    @property
    def total(self) -> float:
        return self.gradients + self.updates + self.passes


def traffic(weights: Sequence[Weight], zero: Zero, ranks: int, tally: PassCounts) -> Traffic:
    """What one outer step sends.

    Args:
        weights: the parameters.
        zero, ranks: who holds what.
        tally: the passes, backwards and updates of one rank in one outer step.
    """
    once, size = (ranks - 1) / ranks, zero.dtype.itemsize
    trained, everything = sum(w.numel for w in weights if w.trained), sum(w.numel for w in weights)
    reductions = tally.backward.calls if zero.stage >= 2 else tally.updates
    rounds = 1 if zero.stage == 3 or (zero.stage and not zero.one_all_reduce) else 2
    gradients = reductions * rounds * once * trained * zero.sent.itemsize
    beside, told = gradients if zero.overlap else 0.0, tally.updates + tally.exchanges
    if zero.stage < 3:
        return Traffic(gradients, told * once * trained * size if zero.stage else 0.0, beside=beside)
    whole = persistent(weights, zero)
    back = tally.backward.graphs + tally.input_gradient.graphs
    elements = tally.forward.graphs * (everything - whole) + back * (everything - whole - reused(weights, zero, tally))
    gathered = once * size * elements
    ahead = gathered if zero.overlap and tally.one_by_one else 0.0
    return Traffic(gradients, told * once * whole * size, gathered, beside + ahead)


def reused(weights: Sequence[Weight], zero: Zero, tally: PassCounts) -> int:
    """Elements that ZeRO-3 still has from a pass when it walks back through it: from there to the end and back is twice
    their number."""
    divided = sum(w.numel for w in weights) - persistent(weights, zero)
    return min(divided, zero.reuse // 2) if tally.one_by_one else 0
