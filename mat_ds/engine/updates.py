"""Updates of the parameters from accumulated gradients, and what is done when one cannot be made."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mat_ds.engine.ascent import climb
from mat_ds.engine.norms import Norms
from mat_ds.errors import NonFiniteError
from mat_ds.ranks.collectives import all_reduce_sum

# Each skipped update halves a dynamic loss scale, and 32 of them take it from 2^32 to 1. If updates still overflow after twice
# as many, the loss scale is static, or is ZeRO-0's at its minimum, and will never fall.
MOST_SKIPS = 64


class Updates(Norms):
    """The part of the engine that changes parameters."""

    _applied: bool
    _looks_at_gradients: bool
    skipped_since_begin: int

    def update(self) -> None:
        """Draws one sample of the parameters from the gradients accumulated since the last one. Every rank must call it.

        With ZeRO or in half precision, it is skipped on all ranks if a gradient is not finite on any. In fp32 without ZeRO
        DeepSpeed does not check gradients, so the losses are checked here before.

        Raises:
            NonFiniteError: on every rank, if a loss was not finite on any; the parameters are left as they were. Also if a
                gradient was not, except in fp16, where the update is repeated with a lower loss scale. At ZeRO-1 in fp32 and
                bf16, `end` and `check` raise it instead; until then updates are skipped.
        """
        self._release()
        if not self._looks_at_gradients:
            self._refuse_losses()
        try:
            self._applied = self._step()
        except Exception as error:  # DeepSpeed raises a bare Exception when the loss scale cannot fall any further
            if "loss scale already at minimum" not in str(error):
                raise
            self._applied = False
            self._give_up(NonFiniteError(f"fp16 gradients overflow at the smallest loss scale: {error}"))
        if self._applied:
            climb(self.sampler, self.shards, self.device)
        else:
            self._refuse_losses()
            if self.dtype != torch.float16:
                self._give_up(self._not_finite("a gradient"))
        self.shards.forget_gradients()

    def _step(self) -> bool:
        """Makes an update, or skips it; whether it did."""
        if self._flat is not None:
            return self._flat.update()
        self.ds.step()
        return bool(self.ds.was_step_applied())

    def _refuse_losses(self) -> None:
        if all_reduce_sum((~self._all_finite).float(), self.shards.chains.inside).item():
            self._give_up(self._not_finite("a loss"))

    def _give_up(self, error: NonFiniteError) -> None:
        """Raises an error that every rank has met. If there are other chains, which have not, every rank raises one in `end`;
        until then this chain draws no samples, but meets them."""
        if self.shards.chains.count == 1:
            raise error
        if not self._applied:
            self.sampler.idle()
        self.sampler.void.fill_(1.0)
        self._applied = True

    def _not_finite(self, what: str) -> NonFiniteError:
        return NonFiniteError(f"{what} was not finite in outer step {self._outer_step}")

    def inner_steps(self) -> Iterator[int]:
        """Yields 0 .. K-1. In fp16 a sample whose gradient overflowed is repeated with the lowered loss scale and the same
        dropout masks and noise, so that an outer step always commits a mixture of exactly K samples. Raises, on every rank,
        `Interrupted` before the first sample if the run is to stop, and `NonFiniteError` if too many in a row overflow.
        """
        self._release()
        self.leave_if_told()  # here, because theta is still theta_t
        k = skipped_in_a_row = 0
        while k < self.sampler.chain.samples:
            yield k
            if self._applied:
                k, skipped_in_a_row = k + 1, 0
                continue
            self.skipped_since_begin += 1
            skipped_in_a_row += 1
            if skipped_in_a_row == MOST_SKIPS:
                self._give_up(NonFiniteError(f"fp16 gradients overflowed {MOST_SKIPS} times in a row"))
                k, skipped_in_a_row = k + 1, 0
