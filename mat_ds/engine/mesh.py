"""Tells DeepSpeed which ranks share a model: those of one chain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import deepspeed
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.zero import partitioned_param_coordinator
from torch import nn

from mat_ds.ranks.chains import Chains
from mat_ds.ranks.collectives import own_rank, world_size


class Mesh:
    """What DeepSpeed calls a model parallelism unit, of one rank, so that it shards within a chain alone.

    Args:
        chains: of the run, more than one.
    """

    def __init__(self, chains: Chains):
        self._chains = chains

    def get_data_parallel_group(self) -> dist.ProcessGroup | None:
        return self._chains.inside

    def get_data_parallel_world_size(self) -> int:
        return world_size(self._chains.inside)

    def get_data_parallel_rank(self) -> int:
        return own_rank(self._chains.inside)

    def get_data_parallel_group_ranks(self) -> list[int]:
        return list(dist.get_process_group_ranks(self._chains.inside))

    def get_model_parallel_group(self) -> dist.ProcessGroup | None:
        return self._chains.alone

    def get_model_parallel_world_size(self) -> int:
        return 1

    def get_model_parallel_rank(self) -> int:
        return 0


def initialize(model: nn.Module, optimizer: Any, ds_config: dict[str, Any], chains: Chains) -> DeepSpeedEngine:
    """A DeepSpeed engine whose model is that of this rank's chain. Every rank must call it.

    Args:
        model, optimizer: as for `deepspeed.initialize`.
        ds_config: a complete DeepSpeed configuration, with the global batch.
        chains: how the ranks are divided.
    """
    mesh = {"mpu": Mesh(chains)} if chains.count > 1 else {}
    if mesh:  # ZeRO-3 compares the order of its parameters over all ranks, but chains need not make their passes at one time
        partitioned_param_coordinator.assert_ints_same_as_other_ranks = lambda ints: None
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=for_a_chain(ds_config, chains), **mesh)
    return engine


def for_a_chain(ds_config: Mapping[str, Any], chains: Chains) -> dict[str, Any]:
    """A complete DeepSpeed configuration, with the share of the global batch that a chain has."""
    whole = ds_config.get("train_batch_size")  # which a loop of one's own may leave to DeepSpeed
    return {**ds_config, **({"train_batch_size": whole // chains.count} if whole else {})}
