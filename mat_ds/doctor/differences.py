"""Compares the findings of all ranks: versions, GPUs, clocks and disks must be the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mat_ds.doctor.rows import Row, Status, failed, passed, warned

SKEW_SECONDS = 2.0


@dataclass(frozen=True)
class Answer:
    """The findings of one rank.

    Attributes:
        rank, host: its number and its node's name.
        versions: versions of its packages, by name.
        cards: name and compute capability of each of its GPUs; under a launcher a rank has one.
        rows: results of its own checks.
    """

    rank: int
    host: str
    versions: dict[str, str]
    cards: list[tuple[str, tuple[int, int]]]
    rows: list[Row]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Answer:
        rows = [Row(**{**row, "status": Status(row["status"]), "ranks": tuple(row["ranks"])}) for row in tree["rows"]]
        cards = [(name, tuple(capability)) for name, capability in tree["cards"]]
        return cls(**{**tree, "cards": cards, "rows": rows})


def spell(ranks: Iterable[int]) -> str:
    """Rank numbers as text: `rank 3`, `ranks 0-3, 7`."""
    ordered = sorted(ranks)
    runs: list[list[int]] = []
    for rank in ordered:
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    shown = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
    return f"rank{'s' if len(ordered) > 1 else ''} {shown}"


def where(answers: Sequence[Answer], ranks: Iterable[int]) -> str:
    """Rank numbers with their nodes: `rank 3 (node2)`."""
    chosen = set(ranks)
    hosts = sorted({answer.host for answer in answers if answer.rank in chosen})
    shown = hosts if len(hosts) <= 3 else [*hosts[:2], f"{len(hosts) - 2} more"]
    return f"{spell(chosen)} ({', '.join(shown)})" if hosts else spell(chosen)


def missing_ranks(answers: Sequence[Answer], size: int, seconds: float) -> Iterator[Row]:
    """Yields a row for the ranks that have not answered.

    Args:
        answers: of the ranks that have.
        size: number of ranks.
        seconds: how long rank 0 waited.
    """
    there = [answer.rank for answer in answers]
    if absent := set(range(size)) - set(there):
        yield failed(
            spell(absent),
            f"did not answer within {seconds:.0f} s; {where(answers, there)} did",
            "see their own output, whether their nodes are up, and whether MASTER_ADDR can be reached from there "
            "(firewall, GLOO_SOCKET_IFNAME); --timeout gives slow disks more time",
        )
    else:
        hosts = {answer.host for answer in answers}
        yield passed("ranks", f"all {size} answered, on {len(hosts)} node{'s' if len(hosts) > 1 else ''}")


def different_versions(answers: Sequence[Answer]) -> Iterator[Row]:
    """Yields a row for each package whose versions differ between ranks: they may compute other numbers, or not connect."""
    for name in sorted({name for answer in answers for name in answer.versions}):
        holders: dict[str, list[int]] = {}
        for answer in answers:
            holders.setdefault(answer.versions.get(name, "none"), []).append(answer.rank)
        if len(holders) > 1:
            found = "; ".join(f"{version} on {where(answers, ranks)}" for version, ranks in holders.items())
            yield failed(name, found, "install the same version on all nodes, or share one environment")


def mixed_cards(answers: Sequence[Answer]) -> Iterator[Row]:
    """Yields a row if the ranks have different GPUs. The oldest limits the precision, and the slowest the speed."""
    holders: dict[str, list[int]] = {}
    for answer in answers:
        for name, _ in answer.cards:
            holders.setdefault(name, []).append(answer.rank)
    capabilities = {capability for answer in answers for _, capability in answer.cards}
    without = [answer.rank for answer in answers if not answer.cards]
    if holders and without:
        yield failed("GPUs", f"{where(answers, without)} have none, the others do", "start ranks on nodes with GPUs only")
    if len(holders) > 1:
        found = "; ".join(f"{name} on {where(answers, ranks)}" for name, ranks in holders.items())
        old = min(capabilities) < (8, 0) <= max(capabilities)
        fix = "fp16 for all (--ds_config zero2_v100_fp16) or fp32, and " if old else ""
        yield warned(
            "mixed GPUs",
            f"{found}: the slowest sets the pace" + (", the oldest has no bf16" if old else ""),
            f"{fix}a train.micro_batch_size that the smallest memory holds (auto is one)",
        )


def clock_skew(answers: Sequence[Answer], clocks: dict[int, float]) -> Iterator[Row]:
    """Yields a row about the differences between the ranks' clocks.

    Args:
        answers: of all ranks.
        clocks: each rank's time when rank 0 asked for it, in seconds since 1970. Accurate to about 0.1 s.
    """
    late = {rank: clock - clocks[0] for rank, clock in clocks.items() if abs(clock - clocks[0]) > SKEW_SECONDS}
    if late:
        found = "; ".join(f"{where(answers, [rank])} is {skew:+.0f} s" for rank, skew in late.items())
        fix = "set the clocks: timedatectl set-ntp true, or ask who runs the machines"
        yield warned("clocks", f"beside rank 0's, {found}: logs and file times will not agree", fix)
    elif len(clocks) > 1:
        yield passed("clocks", f"within {max(clocks.values()) - min(clocks.values()):.1f} s of each other")


def unshared_folder(answers: Sequence[Answer], sees: dict[int, bool], folder: str) -> Iterator[Row]:
    """Yields a row about whether all nodes share the disk of the run directory.

    Args:
        answers: of all ranks.
        sees: whether each rank has seen a file that rank 0 wrote.
        folder: where the file was.
    """
    if len({answer.host for answer in answers}) > 1:
        blind = [rank for rank, seen in sees.items() if not seen]
        if blind:
            yield failed(
                "shared disk",
                f"what rank 0 writes to {folder} is not seen by {where(answers, blind)}",
                "name an output_dir on a disk that all nodes share",
            )
        else:
            yield passed("shared disk", f"all nodes see {folder}")
