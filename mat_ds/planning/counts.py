"""What a rank does in one outer step, counted."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Work:
    """Counts of one kind of work.

    Attributes:
        calls: how often it was done.
        graphs: passes through the model that it covered, in all calls together.
        examples: examples in these passes.
        flops: additions and multiplications of its matrix products, if they are counted.
    """

    calls: int = 0
    graphs: int = 0
    examples: int = 0
    flops: int = 0

    def add(self, graphs: int, examples: int, flops: int) -> None:
        self.calls, self.graphs = self.calls + 1, self.graphs + graphs
        self.examples, self.flops = self.examples + examples, self.flops + flops


@dataclass
class PassCounts:
    """Counts of one outer step.

    Attributes:
        forward: forward passes.
        backward: backward passes to the parameters; each covers all training passes since the last one.
        input_gradient: backward passes to the perturbation alone.
        updates: updates of the parameters.
        exchanges: how often the parameters were replaced by an average, or put back.
        tracked: largest number of examples in training passes whose backward pass has not been made yet.
        held: largest number of bytes before a forward pass while no training pass is waiting for its backward pass. These are
            perturbations and their statistics.
        peak: largest number of bytes, without parameters and their gradients.
        first_layer: forward and backward passes through the first layer alone.
        gathers: how often all parameters are made whole at ZeRO-3 with `model.gather=model`.
        whole_peak: as `peak`, while they are whole.
    """

    forward: Work = field(default_factory=Work)
    backward: Work = field(default_factory=Work)
    input_gradient: Work = field(default_factory=Work)
    updates: int = 0
    exchanges: int = 0
    tracked: int = 0
    held: int = 0
    peak: int = 0
    first_layer: Work = field(default_factory=Work)
    gathers: int = 0
    whole_peak: int = 0

    @property
    def one_by_one(self) -> bool:
        """Whether the backward pass of each forward pass is made before the next forward pass."""
        walked = self.backward.calls + self.input_gradient.calls
        return self.trained_one_by_one and self.forward.calls == walked

    @property
    def trained_one_by_one(self) -> bool:
        """The same of training passes alone."""
        return self.backward.graphs == self.backward.calls
