"""The ranks of a run come together: each answers for itself, rank 0 compares, all test their links, rank 0 has the last word.

Whatever happens in between, each says it in the store, so that a rank that fails is heard of.
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
from mat_ds.doctor.links import Links, longest, try_links
from mat_ds.doctor.meeting import Meeting
from mat_ds.doctor.network import interfaces, suggestion
from mat_ds.doctor.rows import Row, Status, collect, warned
from mat_ds.doctor.speeds import check_links
from mat_ds.errors import ExitCode

if TYPE_CHECKING:
    from mat_ds.ranks.world import World

# How long a file may take to be seen on another node: network disks cache what is not there.
SHARED_SECONDS = 30.0
LEAVE_SECONDS = 5.0
# By how much rank 0, which looks at more, may be later than others.
EXAMINATION_SECONDS = 60.0
# Ranks whose own are not in order, or not the same, are not tested beside each other.
VITAL = ("python", "torch", "deepspeed")


def lead(
    meeting: Meeting, world: World, me: Answer, folder: Path, half: str | None, seconds: float
) -> tuple[list[Answer], list[Row], bool]:
    """Rank 0's part.

    Args:
        meeting, world, me: this rank and what it says of itself.
        folder: where a run's files will be written.
        half: the half precision that a run would use, where that is known.
        seconds: how long to wait for a rank, and for each collective.

    Returns:
        All answers, the rows about the ranks as a whole, and whether the test of their links has come to an end.
    """
    others = range(1, world.size)
    heard = meeting.hear("answer", others, seconds)
    answers = [me, *(Answer.from_json(heard[rank]) for rank in sorted(heard))]
    met = {0, *meeting.hear("here", others, 0.0)}
    rows = collect("ranks", missing_ranks, answers, met, world.size, seconds)
    rows += collect("ranks", different_versions, answers)
    everything = [*rows, *(row for answer in answers for row in answer.rows)]
    ill = [row for row in everything if row.status is Status.FAIL and (row.group == "devices" or row.name in VITAL)]
    precisions = [] if ill or len(answers) < world.size else precisions_to_test(answers, half)
    rows += collect("ranks", mixed_cards, answers)

    with file_to_be_seen(folder, len({answer.host for answer in answers}) > 1) as file:
        meeting.say("plan", {"file": file, "precisions": precisions})
        readings = {0: {"time": time.time(), "sees": True}}
        readings |= meeting.hear("reading", heard, seconds + SHARED_SECONDS)
    rows += collect("ranks", clock_skew, answers, {rank: said["time"] for rank, said in readings.items()})
    rows += collect("ranks", unshared_folder, answers, {rank: said["sees"] for rank, said in readings.items()}, folder)
    if not precisions:
        rows += collect("ranks", lambda: [warned("self-test", "was not run", "mend what failed, and run this again")])
        return answers, rows, True
    links, ended, said = Links(), False, {}
    try:
        with heeding_the_launcher():
            ended = try_links(links, world, precisions, seconds)
            said = meeting.hear("links", heard, longest(world, seconds))
    except Terminated as error:
        links.error = links.error or str(error)
        said = meeting.hear("links", heard, 0.0)
    results = {0: links, **{rank: Links(**found) for rank, found in said.items()}}
    return answers, rows + collect("ranks", check_links, answers, results, suggestion(interfaces())), ended


class Terminated(Exception):
    """The launcher has sent SIGTERM, as launchers do to all ranks when one of them has died."""


@contextmanager
def heeding_the_launcher() -> Iterator[None]:
    """Turns SIGTERM into an exception: there is time to say which rank it was."""

    def stop(*signal_and_frame: object) -> None:
        raise Terminated("the launcher ends all ranks, since one has died")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def follow(meeting: Meeting, world: World, me: Answer, seconds: float) -> tuple[ExitCode, bool]:
    """The part of every other rank.

    Returns:
        The exit code that rank 0 has decided on, and whether the test of the links has come to an end.

    Raises:
        TimeoutError: if rank 0 falls silent.
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
    """Rank 0 has printed, and the others may go: launchers end all ranks when the first fails. The store goes last."""
    met = meeting.hear("here", range(1, world.size), 0.0)
    meeting.say("code", int(code))
    meeting.hear("bye", met, LEAVE_SECONDS)


def _from_rank_zero(meeting: Meeting, what: str, seconds: float) -> Any:
    said = meeting.hear(what, [0], seconds)
    if 0 not in said:
        raise TimeoutError(f"rank 0 has not come to its {what} within {seconds:.0f} s")
    return said[0]


def precisions_to_test(answers: list[Answer], half: str | None) -> list[str]:
    """Whose sums to test: that of the run beside fp32, or all that every rank's GPU computes in."""
    if half:
        return ["fp32", half]
    old = any(capability < (8, 0) for answer in answers for _, capability in answer.cards)
    return ["fp32", "fp16", *([] if old else ["bf16"])]


@contextmanager
def file_to_be_seen(folder: Path, wanted: bool) -> Iterator[str | None]:
    """The path of a file that is there meanwhile; None where it is not wanted or cannot be written."""
    with ExitStack() as stack:
        name = None
        if wanted:
            with suppress(OSError):
                name = stack.enter_context(tempfile.NamedTemporaryFile(prefix=".mat-ds-doctor-", dir=folder)).name
        yield name


def _appears(file: str | None) -> bool:
    """Whether a file of rank 0's is seen here, soon."""
    deadline = time.monotonic() + SHARED_SECONDS
    while file and not Path(file).exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
