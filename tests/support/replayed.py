"""What stands in for a CUDA graph on a CPU: a pass that is computed again, from arguments at fixed addresses."""

import torch


class Rerun:
    """A `Capture`. As on a card, all passes share memory: a replay overwrites what another one left, also its results.

    Attributes:
        shapes: of the arguments of each pass that was captured.
        fails: raised in place of the next capture.
    """

    def __init__(self, module):
        self._module, self._results, self._last = module, [], None
        self.shapes, self.fails = [], None

    def addresses(self):
        return [value.data_ptr() for value in (*self._module.parameters(), *self._module.buffers())]

    def __call__(self, run, arguments):
        if self.fails:  # as torch does: within the capture, and then at its end
            try:
                raise self.fails
            finally:
                raise RuntimeError("the capture has been invalidated")
        pool, own, weights, training = self, list(arguments), self.addresses(), self._module.training
        self.shapes.append([tuple(value.shape) for value in own])
        traced, live = own[-1].requires_grad, []
        for _ in range(3):  # to warm up: units are dropped here too
            result = run(*own).detach().clone()
        gradient = torch.zeros_like(own[-1]) if traced else torch.zeros(())
        self._results += [result, gradient]

        class Replayed(torch.autograd.Function):
            @staticmethod
            def forward(ctx, *given):
                assert pool.addresses() == weights, "a graph would read weights where they were"
                assert pool._module.training == training, "a graph would drop units as when it was captured"
                for stale in pool._results:
                    stale.fill_(torch.nan)
                for mine, value in zip(own, given, strict=True):
                    assert mine.shape == value.shape and mine.dtype == value.dtype
                    mine.detach().copy_(value)
                with torch.set_grad_enabled(traced):
                    live[:] = [run(*own)]
                pool._last = result
                return result.copy_(live[0].detach()).detach()

            @staticmethod
            @torch.autograd.function.once_differentiable
            def backward(ctx, up):
                assert pool._last is result, "another replay has overwritten what this pass kept"
                gradient.copy_(torch.autograd.grad(live[0], own[-1], up)[0])
                return *[None] * (len(own) - 1), gradient.detach()

        return Replayed.apply
