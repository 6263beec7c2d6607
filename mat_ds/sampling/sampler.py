"""The parameters' player as an optimizer: preconditioned Langevin steps; the last one of an outer step commits their
mixture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mat_ds.sampling.chain import Chain
from mat_ds.sampling.keys import normal_slice
from mat_ds.sampling.updates import MOMENTS, UPDATES


@dataclass(frozen=True)
class Slice:
    """The position of a slice of one parameter in a flat fp32 master tensor.

    Attributes:
        parameter: index of the parameter in `named_parameters` order.
        total: number of elements of the whole parameter.
        offset: first element of the parameter in the slice.
        start: position of the slice in the master tensor.
        numel: length of the slice.
    """

    parameter: int
    total: int
    offset: int
    start: int
    numel: int


class Sampler(torch.optim.Optimizer):
    """SGLD over the parameters with the mixture of MAT's Algorithm 2 (lines 8 to 12), one sample per `step()`.

    DeepSpeed calls `step()` for the fp32 master tensors of this rank, once per tensor or per group of them, so all counts
    are kept per tensor. Before `arm`, `step()` does nothing, because DeepSpeed may call it while it builds its optimizer.
    Elements of a
        master
    tensor outside every slice are padding, possibly uninitialised memory; they are neither read nor written.

    Args:
        groups: parameter groups with `params`, `lr`, `betas` (adam), `alpha` (rmsprop), `eps` and `weight_decay`.
        update: `sgd`, `rmsprop` or `adam`.
        chain: samples, mixture and noise of one outer step.
        seed: of the run, the first part of every noise key.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], update: str, chain: Chain, seed: int):
        super().__init__(groups, {"lr": 0.0, "betas": (0.9, 0.999), "alpha": 0.99, "eps": 1e-8, "weight_decay": 0.0})
        self.chain = chain
        self._update = UPDATES[update]
        self._moments = MOMENTS[update]
        self._seed = seed
        self._outer_step, self._done = 0, 0.0
        self._device = torch.device("cpu")
        self._slices: dict[Tensor, Sequence[Slice]] = {}
        self._starts: dict[Tensor, Tensor] | None = None
        self._last_samples: dict[Tensor, float] = {}
        self._drifts: list[float] = []
        self._noises: list[float] = []

    def arm(self, slices: Mapping[Tensor, Sequence[Slice]], device: torch.device) -> None:
        """Tells the sampler its shards and creates their state; from here on `step()` samples.

        Args:
            slices: for each master tensor of this rank, the slices of parameters in it.
            device: where noise is drawn; the same on every rank even if masters are offloaded.
        """
        self._slices, self._device = dict(slices), device
        names = (*self._moments, *(("mixture",) if self.chain.is_mixed else ()))
        for master in self._slices:
            self.state[master] = {name: torch.zeros_like(master, requires_grad=False) for name in names}
            self.state[master].update(step=0, sample=0)
            self.state[master].update({name: master.detach().clone() for name in self.chain.averages})

    def begin(self, outer_step: int, lr: float, done: float = 0.0, watch: bool = False) -> None:
        """Starts the chain of one outer step.

        Args:
            outer_step: t, counted from 0 over the whole run.
            lr: step size gamma of this outer step.
            done: fraction of the run's outer steps before this one.
            watch: whether to keep a copy of theta_t until the next `begin`, for `moved` and `parts`.
        """
        self._outer_step, self._done = outer_step, done
        self._starts = {master: master.detach().clone() for master in self._slices} if watch else None
        self._last_samples = {}
        self._drifts, self._noises = [0.0] * self.chain.samples, [0.0] * self.chain.samples
        for group in self.param_groups:
            group["lr"] = lr

    @property
    def moved(self) -> tuple[float, float]:
        """Squared distances of the last sample and of theta_{t+1} from theta_t, over this rank's shards; needs `watch`."""
        assert self._starts is not None
        committed = sum(self._squared(master.detach() - start, master) for master, start in self._starts.items())
        return sum(self._last_samples.values()), committed

    @property
    def parts(self) -> tuple[list[float], list[float]]:
        """Squared norms of drift and noise of each sample, over this rank's shards; needs `watch`."""
        return self._drifts, self._noises

    def _squared(self, value: Tensor, master: Tensor) -> float:
        """Squared norm over a master's slices."""
        flat = value.view(-1)
        return float(sum(flat[here].double().square().sum() for here in _runs(self._slices[master])))

    @property
    def masters(self) -> list[Tensor]:
        """The fp32 master tensors of this rank."""
        return list(self._slices)

    @property
    def updates(self) -> int:
        """Samples drawn over the whole run so far."""
        return max((state["step"] for state in self.state.values()), default=0)

    @updates.setter
    def updates(self, count: int) -> None:
        for master in self._slices:
            self.state[master].update(step=count, sample=0)

    def kept(self, master: Tensor) -> dict[str, Tensor]:
        """The state of a master tensor that outlives an outer step: moments and running averages."""
        return {name: self.state[master][name] for name in (*self._moments, *self.chain.averages)}

    def finite(self) -> Tensor:
        """Whether all parameters, moments and running averages of this rank are finite; on the device where noise is drawn."""
        found = torch.ones((), dtype=torch.bool, device=self._device)
        for master, slices in self._slices.items():
            for tensor in (master.detach(), *self.kept(master).values()):
                for here in _runs(slices):
                    found &= tensor.view(-1)[here].isfinite().all().to(self._device)
        return found

    @property
    def state_bytes(self) -> int:
        """Bytes of optimizer state (moments, mixture and averages) that this rank holds."""
        tensors = (value for state in self.state.values() for value in state.values() if isinstance(value, Tensor))
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Draws one sample of every master tensor in the parameter groups; the K-th commits the mixture."""
        for group in self.param_groups:
            for master in group["params"]:
                if master in self._slices:
                    self._sample(master, group)

    def _sample(self, master: Tensor, group: dict[str, Any]) -> None:
        state, slices = self.state[master], self._slices[master]
        state["step"] += 1
        state["sample"] += 1
        sample, weights = state["sample"], self.chain.coefficients
        first, last = sample == 1, sample == self.chain.samples
        mixed, from_start = self.chain.is_mixed, self.chain.anchor == "start"
        theta = master.view(-1)
        gradient = master.grad.reshape(-1) if master.grad is not None else torch.zeros_like(theta)
        moments = {name: state[name].view(-1) for name in self._moments}
        mixture = state["mixture"].view(-1) if mixed else theta
        before = master.detach().clone() if self._starts is not None else None

        for here in _runs(slices):
            if mixed and first and from_start:
                torch.mul(theta[here], weights[0], out=mixture[here])
            own_moments = {name: moment[here] for name, moment in moments.items()}
            self._update(theta[here], gradient[here], group, state["step"], **own_moments)
            if mixed and first and not from_start:
                torch.mul(theta[here], weights[0], out=mixture[here])

        if before is not None:
            self._drifts[sample - 1] += self._squared(master - before, master)
            before.copy_(master)
        if self.chain.noise and group["lr"]:
            self._add_noise(theta, slices, sample, (2 * group["lr"]) ** 0.5 * self.chain.noise)
        if before is not None:
            self._noises[sample - 1] += self._squared(master - before, master)

        if last and self._starts is not None:
            self._last_samples[master] = self._squared(master - self._starts[master], master)
        for here in _runs(slices):
            if mixed:
                mixture[here].add_(theta[here], alpha=weights[sample])
            if mixed and last:
                theta[here].copy_(mixture[here])
        if last:
            state["sample"] = 0
            self._keep_averages(theta, state, slices)

    def _keep_averages(self, theta: Tensor, state: dict[str, Any], slices: Sequence[Slice]) -> None:
        for name, average in self.chain.averages.items():
            weight, kept = average.weight(self._outer_step, self._done), state[name].view(-1)
            for here in _runs(slices):
                kept[here].lerp_(theta[here], weight)

    @torch.no_grad()
    def swap(self, average: str) -> None:
        """Exchanges the parameters with a running average; a second call restores both bit for bit."""
        for master, slices in self._slices.items():
            theta, kept = master.view(-1), self.state[master][average].view(-1)
            for here in _runs(slices):
                held = theta[here].clone()
                theta[here].copy_(kept[here])
                kept[here].copy_(held)

    def _add_noise(self, theta: Tensor, slices: Sequence[Slice], sample: int, scale: float) -> None:
        """theta += scale * xi, where xi only depends on seed, t, k, parameter and element."""
        for piece in slices:
            key = (self._seed, self._outer_step, "theta", sample, piece.parameter)
            noise = normal_slice(self._device, key, piece.total, piece.offset, piece.numel)
            theta[piece.start : piece.start + piece.numel].add_(noise.to(theta.device), alpha=scale)


def _runs(slices: Sequence[Slice]) -> list[slice]:
    """The ranges of a master tensor that hold parameters, with adjacent slices merged; gaps are padding."""
    runs: list[slice] = []
    for piece in sorted(slices, key=lambda piece: piece.start):
        if runs and runs[-1].stop == piece.start:
            runs[-1] = slice(runs[-1].start, piece.start + piece.numel)
        else:
            runs.append(slice(piece.start, piece.start + piece.numel))
    return runs
