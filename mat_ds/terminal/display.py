"""Shows progress: a bar on a terminal, a line every few seconds in a log file, or nothing."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar

from mat_ds.errors import printable_lines

Item = TypeVar("Item")

# Seconds between two updates of the progress.
ON_A_TERMINAL, IN_A_FILE = 0.1, 10.0
BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
LINE = "{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt} steps [{elapsed}<{remaining}{postfix}]"
# Of a part of the work, which is shown if it takes long and then removed.
PART_BAR = "{desc} {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]"
PART_LINE = "{desc}: {percentage:3.0f}% [{elapsed}<{remaining}]"
LONG = 1.0
# Columns of the bar itself when the facts behind it need the line, and columns of a bar that tqdm does not fit into a line.
LEAST, USUAL = 4, 10


def add_display_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--quiet` and `--json` of a `Display`."""
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--quiet", action="store_true", help="show warnings and the result alone")
    shown.add_argument("--json", action="store_true", help="print the result as one line of JSON, all else to stderr")


def show(text: object, stream: TextIO | None = None) -> None:
    """Prints text and flushes; escapes control characters. To stdout unless another stream is given."""
    print(printable_lines(str(text)), file=stream or sys.stdout, flush=True)


def one_line(file: Path) -> str:
    """A JSON file as one line, for `--json`."""
    return json.dumps(json.loads(file.read_text(encoding="utf-8")))


class Lines:
    """A stream on which tqdm prints each update as a new line instead of moving the cursor."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> None:
        if shown := text.strip("\r\n "):
            self._stream.write(f"{shown}\n")

    def flush(self) -> None:
        self._stream.flush()


class Bar:
    """A bar of progress, a context manager; made by a `Display`."""

    def __init__(self, bar: Any):
        self._bar = bar

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, count: float = 1) -> None:
        """Moves it on."""
        self._bar.update(count)

    def move(self, done: float) -> None:
        """Moves it to a place, also back."""
        self._bar.update(done - self._bar.n)

    def rename(self, name: str) -> None:
        """Changes what stands before it."""
        self._bar.set_description_str(name, refresh=False)

    def tell(self, *facts: str) -> None:
        """Shows facts behind it: as many as its line has room for, the first ones first."""
        if self._bar.disable:
            return
        form = self._bar.format_dict
        bare = len(self._bar.format_meter(**{**form, "ncols": None, "postfix": ""})) - USUAL + LEAST
        shown = ""
        for fact in facts:
            longer = f"{shown}, {fact}" if shown else fact
            if form["ncols"] and bare + len(f", {longer}") > form["ncols"]:
                break
            shown = longer
        self._bar.set_postfix_str(shown, refresh=False)


class Display:
    """Prints for rank 0; other ranks' displays are silent.

    Args:
        speaks: whether this rank prints.
        quiet: prints only warnings and the result.
        json: prints the result as one line of JSON on stdout, and everything else on stderr.
    """

    def __init__(self, speaks: bool, quiet: bool = False, json: bool = False):
        self._result, self.json = speaks, json
        self._speaks = speaks and not quiet
        self._warns = speaks
        self._tqdm: Any = None

    def bar(self, name: str, total: int, done: int) -> Bar:
        """The bar of a training's steps."""
        return self._bar(name, total, BAR, LINE, initial=done)

    def part(self, name: str, total: float, delay: float | None = None) -> Bar:
        """The bar of a part of the work: appears if it takes long (or after `delay` seconds), and disappears at its end."""
        waits = LONG if sys.stderr.isatty() else IN_A_FILE
        return self._bar(name, total, PART_BAR, PART_LINE, leave=False, delay=waits if delay is None else delay)

    def course(self, name: str, total: int, done: int) -> Bar:
        """The bar of several trainings. Only on a terminal, since they take hours."""
        # Each move is shown, not only one of so many: a training is a single step of the bar.
        return self._bar(name, total, PART_BAR, "", initial=done, leave=False, smoothing=0, miniters=0)

    def follow(self, name: str, items: Sequence[Item]) -> Iterator[Item]:
        """Yields the items, with the bar of a part of the work."""
        with self.part(name, len(items)) as part:
            for item in items:
                yield item
                part.update()

    def _bar(self, name: str, total: float, on_a_terminal: str, in_a_file: str, **how: Any) -> Bar:
        from tqdm import tqdm  # imported late: most commands never need it

        self._tqdm, moves = tqdm, sys.stderr.isatty()
        return Bar(tqdm(
            total=total, desc=name, disable=not (self._speaks and (moves or in_a_file)), dynamic_ncols=moves,
            mininterval=ON_A_TERMINAL if moves else IN_A_FILE, file=None if moves else Lines(sys.stderr),
            bar_format=on_a_terminal if moves else in_a_file, **how,
        ))  # fmt: skip

    def say(self, *lines: str) -> None:
        """Prints information."""
        if self._speaks and lines:
            self._print("\n".join(lines), sys.stderr if self.json else sys.stdout)

    def warn(self, line: str) -> None:
        """Prints a warning."""
        if self._warns:
            self._print(f"*** WARNING: {line}", sys.stderr)

    def conclude(self, text: str) -> None:
        """Prints the result, as text or JSON."""
        if self._result:
            self._print(text, sys.stdout)

    def _print(self, text: str, stream: TextIO) -> None:
        if self._tqdm is None:
            show(text, stream)
        else:  # above the bars
            self._tqdm.write(printable_lines(text), file=stream)
            stream.flush()
