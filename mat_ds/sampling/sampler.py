"""The parameters' player as an optimizer: preconditioned Langevin steps; the last one of an outer step commits their
mixture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mat_ds.ranks.chains import ONE_CHAIN, Chains
from mat_ds.sampling import step_kernel
from mat_ds.sampling.chain import Chain
from mat_ds.sampling.chains_meeting import MET, ChainsMeeting
from mat_ds.sampling.kept import Kept
from mat_ds.sampling.keys import add_normal_, seed_from
from mat_ds.sampling.noise_kernel import Kernel, add_by_place
from mat_ds.sampling.slices import Block, Slice, blocks_of
from mat_ds.sampling.updates import MOMENTS, UPDATES, preconditioner
from mat_ds.sampling.watched import Watched, squared_distance


class Sampler(Kept):
    """SGLD over the parameters with the mixture of MAT's Algorithm 2 (lines 8 to 12), one sample per `step()`.

    DeepSpeed calls `step()` for the fp32 master tensors of this rank, once per tensor or per group of them, so all counts
    are kept per tensor. Before `arm`, `step()` does nothing, because DeepSpeed may call it while it builds its optimizer.
    Elements outside every slice are padding, possibly uninitialised memory; they are neither read nor written.

    Args:
        groups: parameter groups with `params`, `lr`, `betas` (adam), `alpha` (rmsprop), `eps` and `weight_decay`.
        update: `sgd`, `rmsprop` or `adam`.
        chain: samples, mixture and noise of one outer step.
        seed: of the run, the first part of every noise key.

    Attributes:
        meeting: where the chains of the run meet.
        void: a number on the device of the masters; once it is 1 instead of 0, no step changes anything any more.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], update: str, chain: Chain, seed: int):
        super().__init__(groups, {"lr": 0.0, "betas": (0.9, 0.999), "alpha": 0.99, "eps": 1e-8, "weight_decay": 0.0})
        self.chain, self._parameters = chain, sum(len(group["params"]) for group in self.param_groups)
        self._update, self._named, self._moments = UPDATES[update], update, MOMENTS[update]
        self._seed = seed
        self._outer_step, self._done = 0, 0.0
        self._device = torch.device("cpu")
        self._kernel: Kernel | None = None
        self._step_kernel: step_kernel.Kernel | None = None
        self.void = torch.zeros(())
        self.meeting = ChainsMeeting()
        self._blocks: dict[Tensor, list[Block]] = {}
        # The moves of the outer step that has begun, if it is watched.
        self.watched: Watched | None = None
        # The sums of an ascent over this rank's shards; None if it has none, or no ascent has been aimed.
        self._aimed: Tensor | None = None
        # Samples of the outer step so far, also on a rank that has no shard.
        self._samples = 0

    def arm(
        self, slices: Mapping[Tensor, Sequence[Slice]], device: torch.device, kernel: Kernel | None = None,
        chains: Chains = ONE_CHAIN, at_once: step_kernel.Kernel | None = None,
    ) -> None:  # fmt: skip
        """Tells the sampler its shards and creates their state; from here on `step()` samples.

        Args:
            slices: for each master tensor of this rank, the slices of parameters in it.
            device: where noise is drawn; the same on every rank even if masters are offloaded.
            kernel: that draws it, the same on every rank (`mat_ds.sampling.noise_kernel`); None for torch's generators.
            chains: those of the run, whose mixtures are averaged where they meet.
            at_once: makes a whole sample of Adam, where masters are on `device`; None for one operation after another.
        """
        self.meeting = ChainsMeeting(chains, device)
        self._blocks = {master: blocks_of(own) for master, own in slices.items()}
        self._device, self._kernel, self._step_kernel = device, kernel, at_once
        self.void = torch.zeros((), device=next((master.device for master in self._blocks), device))
        names = (*self._moments, *(("mixture",) if self.chain.is_mixed else ()), *(("aim",) if self.chain.ascent else ()))
        names += self.meeting.names
        for master in self._blocks:
            self.state[master] = {name: torch.zeros_like(master, requires_grad=False) for name in names}
            self.state[master].update(step=0, sample=0)
            self.state[master].update({name: master.detach().clone() for name in self.chain.averages})
            if MET in names:
                self.state[master][MET].copy_(master.detach())

    def begin(
        self, outer_step: int, lr: float, done: float = 0.0, watch: bool = False, meets: bool = True, keeps: bool = False
    ) -> None:
        """Starts the chain of one outer step.

        Args:
            outer_step: t, counted from 0 over the whole run.
            lr: step size gamma of this outer step; a slice has its rate times it, in drift and noise.
            done: fraction of the run's outer steps before this one.
            watch: whether to keep `watched` until the next `begin`.
            meets: whether the chains meet at its end.
            keeps: whether what each had come to is kept until the next `begin`.
        """
        self._outer_step, self._done, self._samples = outer_step, done, 0
        self.meeting.begin(meets, keeps)
        self.watched = Watched(self._blocks, self.chain.samples) if watch else None
        for group in self.param_groups:
            group["lr"] = lr

    @property
    def noise_device(self) -> str | None:
        """What draws its noise, of which each kind has its own numbers; None if there is none."""
        return f"{self._device.type}{' by Philox' if self._kernel else ''}" if self.chain.noise else None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Draws one sample of every master tensor in the parameter groups; the K-th commits the mixture."""
        for group in self.param_groups:
            for master in group["params"]:
                if master in self._blocks:
                    self._sample(master, group)

    @torch.no_grad()
    def idle(self) -> None:
        """Counts a sample that is not drawn, so that this chain meets the others at the end of the outer step all the same."""
        for master in self._blocks:
            self.state[master]["sample"] += 1
            self._end(master)

    def _end(self, master: Tensor) -> None:
        """Ends a sample, and the outer step if it was the last."""
        state = self.state[master]
        if state["sample"] == self.chain.samples:
            state["sample"] = 0
            self.commit(master)

    def _sample(self, master: Tensor, group: dict[str, Any]) -> None:
        state = self.state[master]
        state["step"] += self.chain.ascent is None or state["sample"] > 0
        state["sample"] += 1
        gradient = torch.zeros_like(master) if master.grad is None else master.grad
        flat = {"theta": master.detach().view(-1), "gradient": gradient.reshape(-1)}
        flat |= {name: value.view(-1) for name, value in state.items() if isinstance(value, Tensor)}
        if self.watched:
            flat["start"] = self.watched.starts[master].view(-1)
        for block in self._blocks[master]:
            own = {name: tensor[block.here] for name, tensor in flat.items()}
            self._advance(block, own, {**group, "lr": group["lr"] * block.rate}, state)
        self._end(master)

    def _advance(self, block: Block, own: dict[str, Tensor], group: dict[str, Any], state: dict[str, Any]) -> None:
        """Draws a sample of one block with the options of `group`: drift, noise, mixture, averages."""
        theta, mixture = own["theta"], own.get("mixture")
        sample, weights = state["sample"], self.chain.coefficients
        first, last = sample == 1, sample == self.chain.samples
        if self.chain.ascent and first:
            found = self.chain.ascent.aim(block, theta, own["gradient"], self.void, own["aim"], self._parameters)
            self._aimed = found if self._aimed is None else self._aimed + found
            return
        if self.chain.ascent:
            theta.copy_(own["aim"])  # theta_t
        scale = (2 * group["lr"]) ** 0.5 * self.chain.noise if self.chain.has_noise(self._outer_step) else 0.0
        if self._step_kernel and theta.device.type == self._device.type:
            step_kernel.draw_sample(
                self._step_kernel, own, group, state["step"], self.chain, sample, block.runs, (scale, self._key(sample)),
                self.void, self.watched,
            )  # fmt: skip
            return
        before = theta.clone() if self.watched else None

        if mixture is not None and first and self.chain.anchor == "start":
            torch.mul(theta, weights[0], out=mixture)
        moments = {name: own[name] for name in self._moments}
        self._update(theta, own["gradient"], group, state["step"], self.void, **moments)
        if mixture is not None and first and self.chain.anchor == "first_update":
            torch.mul(theta, weights[0], out=mixture)

        if self.watched and before is not None:
            self.watched.drifts[sample - 1] += squared_distance(theta, before)
            before.copy_(theta)
        if scale:
            scaled = preconditioner(self._named, group, state["step"], moments) if self.chain.preconditioned else None
            noise = theta if scaled is None else torch.zeros_like(theta)
            self._add_noise(noise, block, sample, scale)
            if scaled is not None:
                theta.addcmul_(noise, scaled.sqrt_())
        if self.watched and before is not None:
            self.watched.noises[sample - 1] += squared_distance(theta, before)
            self.watched.by_chain += squared_distance(theta, own["start"]) if last else 0.0
        if mixture is not None:
            mixture.add_(theta, alpha=weights[sample])
            if last:
                torch.where(self.void.bool(), theta, mixture, out=theta)

    @torch.no_grad()
    def commit(self, master: Tensor) -> None:
        """Makes theta_{t+1} of what the chains came to, and moves its running averages where it is the same in all of them."""
        theta, meetings = master.detach(), self._outer_step // self.meeting.chains.every
        if not self.meeting.end(master, self._blocks[master], self.state[master], self._moments, self.watched):
            return
        for name, average in self.chain.averages.items():
            weight = (1 - self.void) * average.weight(meetings, self._done)
            kept = self.state[master][name].view(-1)
            for block in self._blocks[master]:
                kept[block.here].lerp_(theta.view(-1)[block.here], weight)

    def _key(self, sample: int) -> int:
        """Of the noise of all parameters in a sample, if it is drawn by place."""
        return seed_from(self._seed, self._outer_step, "theta", sample, *self.meeting.chains.key)

    def _add_noise(self, theta: Tensor, block: Block, sample: int, scale: float) -> None:
        """theta += scale * xi, where xi only depends on seed, t, k, parameter and element, and on what draws it."""
        if self._kernel:
            for run, place in block.runs:
                add_by_place(self._kernel, theta[run], scale, self._key(sample), place, self.void, self._device)
            return
        for piece in block.slices:
            here = slice(piece.start - block.here.start, piece.start - block.here.start + piece.numel)
            key = (self._seed, self._outer_step, "theta", sample, piece.parameter, *self.meeting.chains.key)
            add_normal_(theta[here], scale, key, piece.total, piece.offset, self._device, 1 - self.void)

    def end_sample(self) -> bool:
        """Counts a sample that `step` has drawn of all shards; returns whether it was an ascent, which `climb` must end: the
        same on every rank."""
        self._samples += 1
        return self.chain.ascent is not None and self._samples == 1

    @property
    def aim_sums(self) -> Tensor:
        """What an ascent sums over all ranks, of this rank's shards."""
        assert self.chain.ascent
        return self.chain.ascent.no_sums(self._parameters) if self._aimed is None else self._aimed

    @torch.no_grad()
    def climb(self, sums: Tensor) -> None:
        """Ends the ascent that `step` has aimed; `sums` are `aim_sums` over all ranks."""
        assert self.chain.ascent
        self._aimed = None
        for master, blocks in self._blocks.items():
            theta, aim = master.detach().view(-1), self.state[master]["aim"].view(-1)
            for block in blocks:
                self.chain.ascent.climb(block, theta[block.here], aim[block.here], sums.to(master.device))
