"""The plan of a run with one layout: memory of each rank, communication, and time of an outer step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mat_ds.engine.zero import Zero, read_zero, whole_fits
from mat_ds.methods import METHODS
from mat_ds.models.options import Gather
from mat_ds.planning.buffers import transient
from mat_ds.planning.costs import Costs, PassBytes
from mat_ds.planning.states import MemoryRow, model_states, persistent
from mat_ds.planning.traffic import Traffic, meeting_bytes, traffic
from mat_ds.ranks.compressed import COMPRESSIONS
from mat_ds.runs.options import RunConfig
from mat_ds.sampling.chain import Chain
from mat_ds.sampling.chains_meeting import kept_to_meet
from mat_ds.terminal.units import GIB

# Memory of a GPU that tensors cannot use: bytes for CUDA's context, kernels and NCCL's buffers, and a share that is lost to
# fragmentation.
CONTEXT, FRAGMENTED = GIB, 0.05


@dataclass(frozen=True)
class Cards:
    """The GPUs of a run.

    Attributes:
        count: number of GPUs, which is the number of ranks.
        memory: memory of each GPU in bytes.
        link: bytes per second of the slowest link between two GPUs; None if unknown.
        flops: sustained additions and multiplications per second of a GPU.
        chains: of how many chains of the parameters each has an equal part of the GPUs; the link is then that between them.
    """

    count: int
    memory: int
    link: float | None
    flops: float
    chains: int = 1

    @property
    def sharers(self) -> int:
        """GPUs that share a model."""
        return self.count // self.chains

    @property
    def reserve(self) -> int:
        """Bytes of a GPU that tensors cannot use."""
        return CONTEXT + int(FRAGMENTED * self.memory)


@dataclass(frozen=True)
class Plan:
    """The estimates for one layout.

    Attributes:
        run, zero: the options and the layout.
        rows: memory of the rank that needs most.
        traffic: bytes that a rank sends in an outer step.
        compute, communication: seconds of computation and of communication in an outer step; the latter is 0 if the speed of
            the link is unknown.
        memory: memory of a GPU in bytes.
        gather: what ZeRO-3 makes whole at a time in passes without gradients of the weights; None below ZeRO-3.
    """

    run: RunConfig
    zero: Zero
    rows: tuple[MemoryRow, ...]
    traffic: Traffic
    compute: float
    communication: float
    memory: int
    gather: Gather | None = None

    @property
    def card(self) -> int:
        """Peak memory of the GPU in bytes, including the reserve."""
        return peak_of(self.rows)

    @property
    def host(self) -> int:
        """Peak host memory of the rank in bytes."""
        return _most([(row.when, row.host) for row in self.rows])

    @property
    def fits(self) -> bool:
        return self.card <= self.memory

    @property
    def exposed(self) -> float:
        """Seconds of an outer step in which the rank only waits for communication."""
        if not self.communication or self.traffic.across:  # chains meet when all passes have been made
            return self.communication
        beside = self.communication * self.traffic.beside / self.traffic.total
        return self.communication - min(beside, self.compute)

    @property
    def seconds(self) -> float:
        """Seconds of an outer step."""
        return self.compute + self.exposed


def peak_of(rows: Sequence[MemoryRow]) -> int:
    """Peak memory of the GPU in bytes."""
    return _most([(row.when, row.card) for row in rows])


def _most(held: list[tuple[str, int]]) -> int:
    sums = {when: sum(size for at, size in held if at == when) for when in ("always", "passes", "update")}
    return sums["always"] + max(sums["passes"], sums["update"])


def make_plan(costs: Costs, run: RunConfig, completed: dict[str, Any], cards: Cards, passes: PassBytes | None = None) -> Plan:
    """Makes the plan of a run.

    Args:
        costs: costs of its passes.
        run: the options, with every `auto` of the method replaced.
        completed: the complete DeepSpeed configuration, which says the layout.
        cards: the GPUs.
        passes: bytes of its activations; None: they are computed.
    """
    zero, micro = read_zero(completed), run.train.micro_batch
    accumulation = run.train.batch_size // cards.count // micro
    rows = memory_rows(costs, run, zero, cards, passes)
    tally = costs.tally(run.method, micro, accumulation)
    met, gather = meeting_bytes(run.method.divided, run.optimizer.name), gather_of(costs, run, zero, cards)
    sent = traffic(costs.weights, zero, cards.sharers, tally, cards.chains, run.train.local_steps, met, gather == "model")
    flops = costs.step_flops(run.method, micro, accumulation, run.model.gradient_checkpointing)
    # In a ring of all ranks one crosses the slowest link; where chains meet, all of a chain do.
    crossing = sent.across * cards.sharers if cards.chains > 1 else sent.total
    communication = crossing / cards.link if cards.link else 0.0
    return Plan(run, zero, rows, sent, flops / cards.flops, communication, cards.memory, gather)


def gather_of(costs: Costs, run: RunConfig, zero: Zero, cards: Cards) -> Gather | None:
    """What ZeRO-3 makes whole at a time in passes without gradients of the weights, as `mat_ds.engine.gathering` decides it;
    None below ZeRO-3."""
    if zero.stage < 3 or run.model.gather != "auto":
        return run.model.gather if zero.stage == 3 else None
    taken = sum(row.card for row in _states(costs, run, zero, cards)) + zero.sent.itemsize * zero.bucket + cards.reserve
    return "model" if whole_fits(zero.dtype.itemsize * costs.parameters[0], cards.memory - taken) else "layer"


def _states(costs: Costs, run: RunConfig, zero: Zero, cards: Cards) -> tuple[MemoryRow, ...]:
    beside = kept_to_meet(COMPRESSIONS.get(run.method.divided.compression)) if cards.chains > 1 else ()
    return tuple(model_states(costs.weights, zero, cards.sharers, _chain_of(costs, run), run.optimizer.name, beside))


def _chain_of(costs: Costs, run: RunConfig) -> Chain:
    own = METHODS[run.method.name](run.method, costs.kind).chain
    return own.beside(run.model.average, run.model.average_decay)


def memory_rows(
    costs: Costs, run: RunConfig, zero: Zero, cards: Cards, passes: PassBytes | None = None
) -> tuple[MemoryRow, ...]:
    """The memory of the rank that needs most; the arguments are those of `make_plan`, and what its configuration says."""
    again, micro = run.model.gradient_checkpointing, run.train.micro_batch
    accumulation = run.train.batch_size // cards.count // micro
    tally = costs.tally(run.method, micro, accumulation)
    passes = costs.pass_bytes(run.method, micro, again) if passes is None else passes
    whole = gather_of(costs, run, zero, cards) == "model"
    ordered = tally.trained_one_by_one if whole else tally.one_by_one
    shape = f"{tally.tracked} x {costs.longest} tokens at a time" + (", recomputed layer by layer" if again else "")
    replayed = passes.whole if run.model.compile == "graphs" else 0
    rows = (
        *_states(costs, run, zero, cards),
        *transient(costs.weights, zero, cards.sharers, run, _chain_of(costs, run), tally, ordered),
        MemoryRow("activations", passes.most, 0, shape, "passes"),
        MemoryRow("graphs", replayed, 0, "passes that are replayed, in memory of their own"),
        MemoryRow("perturbations", tally.held, 0, f"of {accumulation} micro-batches" if accumulation > 1 else ""),
        MemoryRow("reserve", cards.reserve, 0, "CUDA's context, NCCL, and 5% for fragmentation"),
    )
    if whole and tally.gathers and (cards.sharers > 1 or zero.offload_param):
        gathered = zero.dtype.itemsize * (costs.parameters[0] - persistent(costs.weights, zero))
        beyond = gathered + passes.whole - sum(row.card for row in rows if row.when == "passes")
        note = "gathered for passes without gradients of the weights, beyond what training passes take"
        rows = *rows, MemoryRow("whole model", max(0, beyond), 0, note, "passes")
    return tuple(row for row in rows if row.card or row.host)
