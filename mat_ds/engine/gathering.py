"""Under ZeRO-3, gathers all parameters once for many passes without gradients of them, not a layer at a time in each."""

from __future__ import annotations

from typing import Any

from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import nn

from mat_ds.engine.shards import numel
from mat_ds.engine.zero import whole_fits
from mat_ds.models.options import Gather
from mat_ds.ranks.collectives import any_rank
from mat_ds.ranks.launch import launcher_variables


class Gathering:
    """Makes the parameters of a model whole, and divides them again.

    DeepSpeed's hooks ask its coordinator to gather what a layer needs, and to free it after the layer. While all parameters
    are whole, they ask `Resting` instead. So these passes do not get into the record that the coordinator keeps of the order
    of training passes, by which it gathers ahead, and keeps what the backward pass will need.

    Args:
        ds: an engine of any ZeRO stage.
        choice: `layer`: `hold` does nothing; `model`: it gathers the model; `auto`: `model` where `whole_fits` on every rank.
            The same on every rank.

    Attributes:
        used: `layer` or `model`; None below ZeRO-3, where parameters are always whole.
    """

    def __init__(self, ds: DeepSpeedEngine, choice: Gather):
        self._module, self._parameters = ds.module, list(ds.module.parameters())
        self._offload: Any = getattr(ds.optimizer, "parameter_offload", None)
        self._taken: list[Any] = []
        # DeepSpeed's coordinator, while parameters are whole.
        self._coordinator: Any = None
        self.used: Gather | None = None
        if self._offload is not None:
            size = sum(numel(parameter) * parameter.element_size() for parameter in self._parameters)
            lacks_room = choice == "auto" and any_rank(not whole_fits(size, _free()), ds.device)
            self.used = "layer" if choice == "layer" or lacks_room else "model"

    def hold(self) -> None:
        """Makes all parameters whole, if they are not and are to be. Every rank must call it."""
        if self.used != "model":
            return
        if self._coordinator is None:
            on_their_way = self._module.ds_inflight_param_registry
            while on_their_way:
                on_their_way.popitem()[1].wait()
            self._coordinator = self._offload.param_coordinator
            self._offload.param_coordinator = Resting(self, self._offload)
        missing: list[Any] = [parameter for parameter in self._parameters if not parameter.numel()]
        if missing:
            missing[0].all_gather(missing)
            self._taken += missing

    def release(self) -> None:
        """Frees what `hold` has gathered, if anything. Sends nothing."""
        if self._coordinator is None:
            return
        self._offload.param_coordinator, self._coordinator = self._coordinator, None
        taken, self._taken = self._taken, []
        if taken:
            taken[0].partition(taken)


class Resting:
    """Stands in for DeepSpeed's coordinator while there is nothing to gather."""

    hierarchy = 0

    def __init__(self, gathering: Gathering, offload: Any):
        self._gathering, self._offload = gathering, offload

    def reset_step(self) -> None: ...

    def trace_prologue(self, layer: nn.Module) -> None: ...

    def is_record_trace(self) -> bool:
        return False

    def fetch_sub_module(self, layer: nn.Module, forward: bool) -> None: ...

    def release_sub_module(self, layer: nn.Module, forward: bool = False) -> None: ...

    def release_backward_leftovers(self) -> None: ...

    def release_and_reset_all(self, module: nn.Module) -> None:
        """DeepSpeed divides all parameters before it changes them."""
        self._gathering.release()
        self._offload.param_coordinator.release_and_reset_all(module)


def _free() -> int:
    """Bytes of memory that each rank of this machine can still take: of its GPU, or its share of what the machine has."""
    accelerator = get_accelerator()
    if accelerator.device_name() == "cpu":
        return int(accelerator.available_memory() // launcher_variables()[3])
    return int(accelerator.available_memory() + accelerator.memory_reserved() - accelerator.memory_allocated())
