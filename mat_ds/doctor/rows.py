"""What a check says: a row with a status, what was found, and what to do about it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from mat_ds.errors import Problem, UserError

# Letters of an exception's text that a table has room for.
BRIEF = 160


class Status(IntEnum):
    """How bad it is; only FAIL makes the command fail."""

    PASS = 0
    WARN = 1
    FAIL = 2


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: what was looked at.
        status, found: how it is, in a status and in words.
        fix: what to do; beside PASS a tip.
        group: heading it stands under.
        ranks: who found it.
    """

    name: str
    status: Status
    found: str
    fix: str = ""
    group: str = ""
    ranks: tuple[int, ...] = ()


def passed(name: str, found: str, tip: str = "") -> Row:
    """All is well; `tip`: what may still help."""
    return Row(name, Status.PASS, found, tip)


def warned(name: str, found: str, fix: str) -> Row:
    """Training can go on, with the drawback that is found."""
    return Row(name, Status.WARN, found, fix)


def failed(name: str, found: str, fix: str) -> Row:
    """Training would fail, or be wrong."""
    return Row(name, Status.FAIL, found, fix)


def from_problem(problem: Problem) -> Row:
    """What every other command would refuse to start with."""
    shown = "" if problem.value is None else f"{problem.value!r}: "
    return failed(problem.key, f"{shown}{problem.reason}", problem.fix)


def brief(error: BaseException) -> str:
    """An exception in one line, without the place in gloo's or NCCL's sources that it may begin with."""
    first, *_ = str(error).splitlines() or [""]
    first = textwrap.shorten(re.sub(r"^\[\S+:\d+\] ?", "", first), BRIEF, placeholder=" ...")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def collect(group: str, check: Callable[..., Iterable[Row]], *arguments: Any) -> list[Row]:
    """The rows of a check; one that breaks down becomes a row itself, and the others go on."""
    rows: list[Row] = []
    try:
        rows.extend(check(*arguments))
    except UserError as error:
        rows += map(from_problem, error.problems)
    except Exception as error:
        name = check.__name__.removeprefix("check_").replace("_", " ")
        rows.append(warned(name, f"could not be looked at ({brief(error)})", "mend what failed above, and ask again"))
    return [replace(row, group=group) for row in rows]
