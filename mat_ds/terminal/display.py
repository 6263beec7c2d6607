"""Shows progress: a bar on a terminal, a line every few seconds in a log file, or nothing."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, TextIO

from mat_ds.errors import printable_lines

# Seconds between two updates of the progress.
ON_A_TERMINAL, IN_A_FILE = 0.1, 10.0
LINE = "{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt} steps [{elapsed}<{remaining}{postfix}]"


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


def table_text(rows: list[list[Any]]) -> str:
    """A table as text in columns. Numbers have four digits; None is shown as a dash."""
    shown = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown)


def _cell(value: object) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


class Lines:
    """A stream on which tqdm prints each update as a new line instead of moving the cursor."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> None:
        if shown := text.strip("\r\n "):
            self._stream.write(f"{shown}\n")

    def flush(self) -> None:
        self._stream.flush()


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
        self._bar: Any = None

    def bar(self, name: str, total: int, done: int) -> Any:
        """The progress bar, a context manager with `update`."""
        from tqdm import tqdm  # imported late: most commands never need it

        moves = sys.stderr.isatty()
        self._bar = tqdm(
            total=total, initial=done, desc=name, unit="step", disable=not self._speaks, dynamic_ncols=moves,
            mininterval=ON_A_TERMINAL if moves else IN_A_FILE, file=None if moves else Lines(sys.stderr),
            bar_format=None if moves else LINE,
        )  # fmt: skip
        return self._bar

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
        if self._bar is None or self._bar.disable:
            show(text, stream)
        else:  # above the bar
            self._bar.write(printable_lines(text), file=stream)
            stream.flush()
