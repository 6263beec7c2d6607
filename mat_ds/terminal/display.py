"""What a run shows of itself: a moving bar on a terminal, a line now and then in a log file, or nothing."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, TextIO

from mat_ds.errors import printable_lines

# Seconds between two states of the progress.
ON_A_TERMINAL, IN_A_FILE = 0.1, 10.0
LINE = "{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt} steps [{elapsed}<{remaining}{postfix}]"


def add_display_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command that takes long or finds something out can be told to show: `quiet` and `json` of a `Display`."""
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--quiet", action="store_true", help="show warnings and the result alone")
    shown.add_argument("--json", action="store_true", help="print the result as one line of JSON, all else to stderr")


def show(text: object, stream: TextIO | None = None) -> None:
    """Prints lines at once, what would act on a terminal spelt out; to stdout, unless another stream is given."""
    print(printable_lines(str(text)), file=stream or sys.stdout, flush=True)


def one_line(file: Path) -> str:
    """A JSON file as the one line that `--json` prints."""
    return json.dumps(json.loads(file.read_text(encoding="utf-8")))


class Lines:
    """A stream that gets each state of a bar as a line of its own, where tqdm would move the cursor."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> None:
        if shown := text.strip("\r\n "):
            self._stream.write(f"{shown}\n")

    def flush(self) -> None:
        self._stream.flush()


class Display:
    """Speaks for rank 0; the displays of other ranks are silent.

    Args:
        speaks: whether this rank does.
        quiet: only warnings and, in the end, the result.
        json: the result is one line of JSON, alone on stdout; everything else goes to stderr.
    """

    def __init__(self, speaks: bool, quiet: bool = False, json: bool = False):
        self._result, self.json = speaks, json
        self._speaks = speaks and not quiet
        self._warns = speaks
        self._bar: Any = None

    def bar(self, name: str, total: int, done: int) -> Any:
        """The progress bar, to be entered, updated and left."""
        from tqdm import tqdm  # most commands end before they need one

        moves = sys.stderr.isatty()
        self._bar = tqdm(
            total=total, initial=done, desc=name, unit="step", disable=not self._speaks, dynamic_ncols=moves,
            mininterval=ON_A_TERMINAL if moves else IN_A_FILE, file=None if moves else Lines(sys.stderr),
            bar_format=None if moves else LINE,
        )  # fmt: skip
        return self._bar

    def say(self, *lines: str) -> None:
        """What is good to know."""
        if self._speaks and lines:
            self._print("\n".join(lines), sys.stderr if self.json else sys.stdout)

    def warn(self, line: str) -> None:
        """What must be known."""
        if self._warns:
            self._print(f"*** WARNING: {line}", sys.stderr)

    def conclude(self, text: str) -> None:
        """The result, in words or in JSON."""
        if self._result:
            self._print(text, sys.stdout)

    def _print(self, text: str, stream: TextIO) -> None:
        if self._bar is None or self._bar.disable:
            show(text, stream)
        else:  # above the bar
            self._bar.write(printable_lines(text), file=stream)
            stream.flush()
