"""The sampler's state that outlives an outer step: moments, running averages, and how many samples were drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from mat_ds.sampling.chain import Chain
from mat_ds.sampling.chains_meeting import RESIDUE, ChainsMeeting
from mat_ds.sampling.slices import Block


class Kept(torch.optim.Optimizer):
    """The part of the sampler that reads and writes this state; `mat_ds.sampling.sampler` documents the attributes."""

    chain: Chain
    void: Tensor
    meeting: ChainsMeeting
    _moments: tuple[str, ...]
    _device: torch.device
    _blocks: dict[Tensor, list[Block]]

    @property
    def updates(self) -> int:
        """Samples drawn over the whole run so far."""
        return max((state["step"] for state in self.state.values()), default=0)

    @updates.setter
    def updates(self, count: int) -> None:
        for master in self._blocks:
            self.state[master].update(step=count, sample=0)

    @property
    def of_each_chain(self) -> tuple[str, ...]:
        """Names of what each chain has of its own: the moments of the gradient, and what compression has left out."""
        return (*self._moments, *(name for name in self.meeting.names if name == RESIDUE))

    def kept(self, master: Tensor) -> dict[str, Tensor]:
        """The state of a master tensor that outlives an outer step: moments, running averages, and what chains keep to meet."""
        return {name: self.state[master][name] for name in (*self._moments, *self.chain.averages, *self.meeting.names)}

    def finite(self) -> Tensor:
        """Whether all parameters, moments and running averages of this rank are finite, and no step was void; on the device
        where noise is drawn."""
        found = (self.void == 0).to(self._device)
        for master, blocks in self._blocks.items():
            for tensor in (master.detach(), *self.kept(master).values()):
                for block in blocks:
                    found &= tensor.view(-1)[block.here].isfinite().all().to(self._device)
        return found

    @property
    def state_bytes(self) -> int:
        """Bytes of optimizer state (moments, mixture, averages, and what chains keep to meet) that this rank holds."""
        tensors = (value for state in self.state.values() for value in state.values() if isinstance(value, Tensor))
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @torch.no_grad()
    def swap(self, average: str) -> None:
        """Exchanges the parameters with a running average; a second call restores both bit for bit."""
        for master, blocks in self._blocks.items():
            theta, kept = master.view(-1), self.state[master][average].view(-1)
            for block in blocks:
                held = theta[block.here].clone()
                theta[block.here].copy_(kept[block.here])
                kept[block.here].copy_(held)
