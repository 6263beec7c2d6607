"""The second half of an ascent in the parameters: every rank knows its shard's gradient, and lengths are those of all."""

from __future__ import annotations

import torch

from mat_ds.engine.shards import Shards
from mat_ds.ranks.collectives import all_reduce_sum
from mat_ds.sampling.sampler import Sampler


def climb(sampler: Sampler, shards: Shards, device: torch.device) -> None:
    """Moves the parameters to where the descent's gradient is taken, if the sampler's last step was an ascent. Every rank must
    call it."""
    if not sampler.end_sample():
        return
    own = sampler.aim_sums.to(device)
    sampler.climb(own if shards.replicated else all_reduce_sum(own, shards.chains.inside))
    shards.refresh()
