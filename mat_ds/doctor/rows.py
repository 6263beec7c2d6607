"""The result of a check: a row with a status, a finding and a fix."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from mat_ds.errors import Problem, UserError

# Longest text of an exception in a table, in letters.
BRIEF = 160


class Status(IntEnum):
    """How serious a finding is; only FAIL makes the command fail."""

    PASS = 0
    WARN = 1
    FAIL = 2


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: what was checked.
        status, found: the result.
        fix: what to do about it; with PASS, a tip.
        group: the heading of this part of the table.
        ranks: the ranks with this result.
    """

    name: str
    status: Status
    found: str
    fix: str = ""
    group: str = ""
    ranks: tuple[int, ...] = ()


def passed(name: str, found: str, tip: str = "") -> Row:
    """A row about something that is in order, with an optional tip."""
    return Row(name, Status.PASS, found, tip)


def warned(name: str, found: str, fix: str) -> Row:
    """A row about a drawback with which training is possible."""
    return Row(name, Status.WARN, found, fix)


def failed(name: str, found: str, fix: str) -> Row:
    """A row about something with which training would fail or be wrong."""
    return Row(name, Status.FAIL, found, fix)


def from_problem(problem: Problem) -> Row:
    """A row about a problem that other commands would refuse."""
    shown = "" if problem.value is None else f"{problem.value!r}: "
    return failed(problem.key, f"{shown}{problem.reason}", problem.fix)


def brief(error: BaseException) -> str:
    """An exception in one line, without the file and line of C++ code with which those of gloo and NCCL begin."""
    first, *_ = str(error).splitlines() or [""]
    first = textwrap.shorten(re.sub(r"^\[\S+:\d+\] ?", "", first), BRIEF, placeholder=" ...")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def collect(group: str, check: Callable[..., Iterable[Row]], *arguments: Any) -> list[Row]:
    """Runs a check and returns its rows. An exception in it becomes a row too, so that other checks still run.

    Args:
        group: heading of the rows.
        check: yields rows.
        arguments: of the check.
    """
    rows: list[Row] = []
    try:
        rows.extend(check(*arguments))
    except UserError as error:
        rows += map(from_problem, error.problems)
    except Exception as error:
        name = check.__name__.removeprefix("check_").replace("_", " ")
        rows.append(warned(name, f"could not be looked at ({brief(error)})", "mend what failed above, and ask again"))
    return [replace(row, group=group) for row in rows]
