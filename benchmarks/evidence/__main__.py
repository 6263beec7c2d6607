"""Continues the queue, or prints what the records say."""

from __future__ import annotations

import argparse
import fcntl
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.evidence import __doc__ as usage
from benchmarks.evidence.arms import ARMS
from benchmarks.evidence.design import MOST_SEEDS, SEEDS, Entry, queue
from benchmarks.evidence.records import FILE, Record, append, chosen, not_worth_running, read_records
from benchmarks.evidence.tasks import TASKS

if TYPE_CHECKING:
    from benchmarks.evidence.running import Runner

HELD = "another process makes them"
WAIT = 10.0  # seconds until it is asked for again


def main() -> int:
    """Returns 0 when nothing is left that can be run, 2 if nothing could, 75 if it was stopped, or the code of what failed."""
    parser = argparse.ArgumentParser(
        description=usage, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--continue", dest="goes_on", action="store_true", help="make the next runs, one by one")
    what.add_argument("--table", action="store_true", help="print the tables that the records make")
    what.add_argument("--figure", type=Path, metavar="PNG", help="draw what the records say")
    what.add_argument("--queue", action="store_true", help="print the queue, and what of it is done")
    parser.add_argument("--records", type=Path, default=FILE, help="(default: benchmarks/evidence.jsonl)")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/evidence"), help="folder for runs and data (default: runs/evidence)"
    )
    parser.add_argument(
        "--models",
        type=Path,
        metavar="FOLDER",
        help="folder of `minilm` and `mpnet`: all-MiniLM-L6-v2 and all-mpnet-base-v2; a task whose model or data "
        "is not there is left out",
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="folder of <task>/<split>.jsonl, of GLUE")
    parser.add_argument("--limit", type=int, default=sys.maxsize, metavar="N", help="so many runs at most")
    parser.add_argument("--only", choices=ARMS, metavar="ARM", action="append", help="this arm alone; may be repeated")
    parser.add_argument("--task", choices=TASKS, help="this task alone")
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", choices=range(1, MOST_SEEDS + 1))
    parser.add_argument("--keep", action="store_true", help="keep the run folders; else only records stay")
    asked = parser.parse_args()
    entries = [entry for entry in queue(asked.seeds) if (asked.only is None or entry.arm in asked.only)
               and asked.task in (None, entry.task)]  # fmt: skip
    if asked.table:
        from benchmarks.evidence.analysis import tables

        print("\n".join(tables(read_records(asked.records))).strip())
        return 0
    if asked.figure:
        from benchmarks.evidence.figure import draw_evidence

        draw_evidence(read_records(asked.records), asked.figure)
        return 0
    if asked.queue:
        done = {record["name"] for record in read_records(asked.records)}
        print("\n".join(f"{'done' if entry.name in done else '    '} {entry.name}" for entry in entries))
        print(f"{sum(entry.name in done for entry in entries)} of {len(entries)} done")
        return 0
    from benchmarks.evidence.running import Runner

    return go_on(asked, entries, Runner(asked.work, asked.models, asked.data))


def go_on(asked: argparse.Namespace, entries: list[Entry], runner: Runner) -> int:
    """Makes the runs that have no record; says of those that are left out why.

    What another process is making is waited for if others are left out that may depend on it.
    """
    from benchmarks.evidence.running import Stopped

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    missing = {task: reason for task in TASKS if (reason := runner.lacks(task))}
    left = [entry for entry in entries if entry.task not in missing]
    for task in dict.fromkeys(entry.task for entry in entries if entry.task in missing):
        print(f"{task} is left out: {missing[task]}", file=sys.stderr)
    try:
        made, again, reasons = 0, True, Counter[str]()
        while again:
            before, reasons = made, Counter()
            for entry in undone(left, read_records(asked.records)):
                if made == asked.limit:
                    return 0
                if reason := make(entry, asked, runner):
                    reasons[reason] += 1
                else:
                    made += 1
            again = made > before or (HELD in reasons and len(reasons) > 1)
            if made == before and again:
                time.sleep(WAIT)
    except Stopped as stopped:
        print(f"a run ended with {stopped}; the same command goes on", file=sys.stderr)
        return int(stopped.args[0])
    except KeyboardInterrupt:
        return 75
    for reason, count in reasons.items():
        print(f"{count} left out: {reason}", file=sys.stderr)
    return 0 if left else 2


def undone(entries: Sequence[Entry], records: Sequence[Record]) -> list[Entry]:
    done = {record["name"] for record in records}
    return [entry for entry in entries if entry.name not in done]


def make(entry: Entry, asked: argparse.Namespace, runner: Runner) -> str | None:
    """Makes a run and adds its record; returns why not, if it cannot be made now."""
    from benchmarks.evidence.running import NoRadius

    with claimed(asked.work / "locks" / f"{entry.name.replace('/', '-')}") as ours:
        records = read_records(asked.records)
        if not ours or not undone([entry], records):
            return HELD
        if reason := not_worth_running(records, entry.task, entry.arm):
            return reason
        best = chosen(records, entry.task, entry.arm)
        trial = entry.trial or (best and best[0])
        if trial is None:
            return f"{entry.task}: trials of their arms have not ended"
        try:
            radius = runner.radius(entry.task, records) if entry.perturbs or entry.trial is None else None
        except NoRadius as none:
            return f"{entry.task}: {none}"
        print(f"{entry.name}, trial {trial}", flush=True)
        record = runner.run(entry, trial, radius)
        append(record, asked.records)
        print({name: round(value, 2) for name, value in record["endpoints"].items()}, record["wall_seconds"], "s", flush=True)
        if not asked.keep:
            runner.forget(entry)
        return None


@contextmanager
def claimed(lock: Path) -> Iterator[bool]:
    """Whether this process has a run to itself; a process that dies lets go of it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


if __name__ == "__main__":
    sys.exit(main())
