"""The plan of a run at one layout: what each rank holds, what it sends, how long an outer step takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mat_ds.engine.zero import Zero, read_zero
from mat_ds.methods import METHODS
from mat_ds.planning.buffers import transient
from mat_ds.planning.costs import Costs
from mat_ds.planning.states import MemoryRow, model_states
from mat_ds.planning.traffic import Traffic, traffic
from mat_ds.runs.options import RunConfig
from mat_ds.terminal.units import GIB

# Of a card's memory: CUDA's context, kernels and NCCL's buffers, and what falls between the allocator's blocks.
CONTEXT, FRAGMENTED = GIB, 0.05


@dataclass(frozen=True)
class Cards:
    """What a run is to run on.

    Attributes:
        count: ranks.
        memory: bytes of each card.
        link: bytes per second of the slowest link between two ranks; None: not known.
        flops: additions and multiplications per second that a card sustains.
    """

    count: int
    memory: int
    link: float | None
    flops: float

    @property
    def reserve(self) -> int:
        """Bytes of a card that no tensor gets."""
        return CONTEXT + int(FRAGMENTED * self.memory)


@dataclass(frozen=True)
class Plan:
    """What one layout comes to.

    Attributes:
        run, zero: the options and the layout.
        rows: what the fullest rank holds.
        traffic: what a rank sends in an outer step.
        compute, communication: seconds of an outer step for either, the second 0 where no link is known.
        memory: bytes of a card.
    """

    run: RunConfig
    zero: Zero
    rows: tuple[MemoryRow, ...]
    traffic: Traffic
    compute: float
    communication: float
    memory: int

    @property
    def card(self) -> int:
        """Bytes of the card that are taken at the fullest moment, its reserve included."""
        return _most([(row.when, row.card) for row in self.rows])

    @property
    def host(self) -> int:
        """Bytes of host memory that the rank takes at the fullest moment."""
        return _most([(row.when, row.host) for row in self.rows])

    @property
    def fits(self) -> bool:
        return self.card <= self.memory

    @property
    def exposed(self) -> float:
        """Seconds of an outer step in which the rank waits for communication."""
        beside = self.communication * self.traffic.beside / self.traffic.total if self.communication else 0.0
        return self.communication - min(beside, self.compute)

    @property
    def seconds(self) -> float:
        """Of an outer step."""
        return self.compute + self.exposed


def _most(held: list[tuple[str, int]]) -> int:
    sums = {when: sum(size for at, size in held if at == when) for when in ("always", "passes", "update")}
    return sums["always"] + max(sums["passes"], sums["update"])


def make_plan(costs: Costs, run: RunConfig, completed: dict[str, Any], cards: Cards, passes: int | None = None) -> Plan:
    """The plan of a run at the layout of a complete DeepSpeed configuration.

    Args:
        costs: of its passes.
        run: the options, settled for the layout.
        completed: what DeepSpeed gets.
        cards: what it runs on.
        passes: bytes of its activations, where they are known.
    """
    zero, again, micro = read_zero(completed), run.model.gradient_checkpointing, run.train.micro_batch_size
    chain = METHODS[run.method.name](run.method, costs.kind).chain.beside(run.model.average, run.model.average_decay)
    accumulation = run.train.batch_size // cards.count // micro
    tally = costs.tally(run.method, micro, accumulation)
    passes = costs.pass_bytes(run.method, micro, again) if passes is None else passes
    shape = f"{tally.tracked} x {costs.longest} tokens at a time" + (", recomputed layer by layer" if again else "")
    rows = (
        *model_states(costs.weights, zero, cards.count, chain, run.optimizer.name),
        *transient(costs.weights, zero, cards.count, run, chain, tally),
        MemoryRow("activations", passes, 0, shape, "passes"),
        MemoryRow("perturbations", tally.held, 0, f"of {accumulation} micro-batches" if accumulation > 1 else ""),
        MemoryRow("reserve", cards.reserve, 0, "CUDA's context, NCCL, and 5% for fragmentation"),
    )
    sent = traffic(costs.weights, zero, cards.count, tally)
    compute = costs.step_flops(run.method, micro, accumulation, again) / cards.flops
    communication = sent.total / cards.link if cards.link else 0.0
    return Plan(run, zero, tuple(row for row in rows if row.card or row.host), sent, compute, communication, cards.memory)
