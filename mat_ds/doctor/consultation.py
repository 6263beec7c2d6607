"""The protocol between the ranks of `mat-ds doctor`.

Each rank sends its findings to rank 0, which compares them. Then all ranks test their links, and rank 0 sends the exit code.
Messages go through the launcher's key-value store, so that rank 0 learns which rank has failed.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mat_ds.doctor.differences import Answer, clock_skew, different_versions, missing_ranks, mixed_cards, unshared_folder
from mat_ds.doctor.links import Links, check_links, longest, try_links
from mat_ds.doctor.meeting import Meeting
from mat_ds.doctor.network import interfaces, other_choice
from mat_ds.doctor.rows import Row, Status, collect, warned
from mat_ds.errors import ExitCode

if TYPE_CHECKING:
    from mat_ds.ranks.world import World

# How long a new file may take to appear on another node. Network disks cache that a file does not exist.
SHARED_SECONDS = 30.0
LEAVE_SECONDS = 5.0
# How much longer than other ranks rank 0 may take, which makes more checks.
EXAMINATION_SECONDS = 60.0
# Packages without which, or with different versions of which, the links cannot be tested.
VITAL = ("python", "torch", "deepspeed")


def lead(
    meeting: Meeting, world: World, me: Answer, folder: Path, half: str | None, seconds: float
) -> tuple[list[Answer], list[Row], bool, float | None]:
    """Runs rank 0's side of the protocol.

    Args:
        meeting: the connection to the other ranks.
        world, me: this rank and its own findings.
        folder: where a run's files will be written.
        half: the run's half precision, `fp16` or `bf16`; None if it has none, or it is unknown.
        seconds: how long to wait for a rank, and for each collective.

    Returns:
        The findings of all ranks, the rows about the ranks as a whole, whether the test of the links has ended, and the bytes
        per second of the slowest link between nodes; None if there is none, or it was not measured.
    """
    others = range(1, world.size)
    heard = meeting.hear("answer", others, seconds)
    answers = [me, *(Answer.from_json(heard[rank]) for rank in sorted(heard))]
    rows = collect("ranks", missing_ranks, answers, world.size, seconds)
    rows += collect("ranks", different_versions, answers)
    everything = [*rows, *(row for answer in answers for row in answer.rows)]
    ill = [row for row in everything if row.status is Status.FAIL and (row.group == "devices" or row.name in VITAL)]
    precisions = [] if ill or len(answers) < world.size else precisions_to_test(answers, half)
    rows += collect("ranks", mixed_cards, answers)

    with ExitStack() as stack:
        file = None
        with suppress(OSError):  # `check_disks` reports it
            file = stack.enter_context(tempfile.NamedTemporaryFile(prefix=".mat-ds-doctor-", dir=folder)).name
        meeting.say("plan", {"file": file, "precisions": precisions})
        readings = {0: {"time": time.time(), "sees": True}}
        readings |= meeting.hear("reading", heard, seconds + SHARED_SECONDS)
    rows += collect("ranks", clock_skew, answers, {rank: said["time"] for rank, said in readings.items()})
    rows += collect("ranks", unshared_folder, answers, {rank: said["sees"] for rank, said in readings.items()}, folder)
    if not precisions:
        rows += collect("ranks", lambda: [warned("self-test", "was not run", "mend what failed, and run this again")])
        return answers, rows, True, None
    links, ended, said = Links(), False, {}
    try:
        with heeding_the_launcher():
            ended = try_links(links, world, precisions, seconds)
            said = meeting.hear("links", heard, longest(world, seconds))
    except Terminated as error:
        links.error = links.error or str(error)
        said = meeting.hear("links", heard, 0.0)
    results = {0: links, **{rank: Links(**found) for rank, found in said.items()}}
    rows += collect("ranks", check_links, answers, results, other_choice(interfaces()))
    return answers, rows, ended, slowest_between(answers, results)


def slowest_between(answers: list[Answer], results: dict[int, Links]) -> float | None:
    """Bytes per second of the slowest link between nodes; None if there is none."""
    hosts = {answer.rank: answer.host for answer in answers}
    pairs = (pair for links in results.values() for pair in links.pairs)
    return min((speed for one, other, speed in pairs if hosts[one] != hosts[other]), default=None)


class Terminated(Exception):
    """Raised when the launcher sends SIGTERM, as it does to all ranks when one of them has died."""


@contextmanager
def heeding_the_launcher() -> Iterator[None]:
    """A context in which SIGTERM raises `Terminated`, so that rank 0 can still report which rank has died."""

    def stop(*signal_and_frame: object) -> None:
        raise Terminated("the launcher ends all ranks, since one has died")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def follow(meeting: Meeting, world: World, me: Answer, seconds: float) -> tuple[ExitCode, bool]:
    """Runs the side of every other rank.

    Args:
        meeting: the connection to rank 0.
        world, me: this rank and its own findings.
        seconds: how long a collective may take.

    Returns:
        The exit code that rank 0 has decided on, and whether the test of the links has ended.

    Raises:
        TimeoutError: if rank 0 does not send its next message in time.
    """
    meeting.say("answer", me.as_json())
    plan = _from_rank_zero(meeting, "plan", 2 * seconds + EXAMINATION_SECONDS)
    meeting.say("reading", {"time": time.time(), "sees": _appears(plan["file"])})
    ended = True
    if plan["precisions"]:
        links = Links()
        ended = try_links(links, world, plan["precisions"], seconds)
        meeting.say("links", asdict(links))
    code = ExitCode(_from_rank_zero(meeting, "code", 2 * longest(world, seconds) + SHARED_SECONDS))
    meeting.say("bye")
    return code, ended


def part(meeting: Meeting, world: World, code: ExitCode) -> None:
    """Sends the exit code to the other ranks and waits for their reply. Rank 0 calls this after it has printed the table.

    Until then the others must not exit: a launcher ends all ranks when one has failed. Rank 0 exits last because it serves the
    store.
    """
    there = meeting.hear("answer", range(1, world.size), 0.0)
    meeting.say("code", int(code))
    meeting.hear("bye", there, LEAVE_SECONDS)


def _from_rank_zero(meeting: Meeting, what: str, seconds: float) -> Any:
    said = meeting.hear(what, [0], seconds)
    if 0 not in said:
        raise TimeoutError(f"rank 0 has not come to its {what} within {seconds:.0f} s")
    return said[0]


def precisions_to_test(answers: list[Answer], half: str | None) -> list[str]:
    """The precisions to test: fp32 and the run's half precision; if that is unknown, all that every rank can compute in."""
    if half:
        return ["fp32", half]
    old = any(capability < (8, 0) for answer in answers for _, capability in answer.cards)
    return ["fp32", "fp16", *([] if old else ["bf16"])]


def _appears(file: str | None) -> bool:
    """Whether rank 0's file appears on this node in time. True if there is no such file."""
    deadline = time.monotonic() + SHARED_SECONDS
    while file and not Path(file).exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
