"""What a user can get wrong, what a run can die of, the exit code of each, and how text may be shown."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

Result = TypeVar("Result")

# Characters of a value in a message.
MOST_SHOWN = 500

MASK = "***"
# Variables of the environment that hold a secret, by the end of their names; PWD alone is a folder.
HOLDS_SECRET = re.compile(
    r"(?:TOKEN|PASSWORD|PASSWD|PASSPHRASE|SECRET|API_?KEY|ACCESS_KEY|ACCOUNT_KEY|PRIVATE_KEY|SECRET_KEY|"
    r"CONNECTION_STRING|_PWD|_PASS)$",
    re.I,
)
# A shorter one could stand in any text by chance.
SHORTEST = 4

# All of these take time that grows no faster than the text: errors quote what strangers wrote. So an address is taken as a
# whole, and a start is tried once a word.
# What stands in front of a host's name; the path of an SQLite file may hold an @ of its own.
ADDRESS = r"(?<!sqlite)(?<!file)(://)"
REST = re.compile(rf"{ADDRESS}([^\s'\"]*)")
# A password may hold blanks and quotes.
USER_INFO = re.compile(rf"{ADDRESS}[^/\s:@]*:[^/\n@]*@")
# Behind a colon there is a port, or something else.
NO_PORT = re.compile(rf"{ADDRESS}(?:\[[\da-fA-F:.]+\]|[^\[/\s:@'\"*][^/\s:@'\"]*):(?!\d{{1,5}}(?![\w%]|:[^\s'\"]))[^\s/'\"]+")
# user:password@host, however the address in front of it is spelt.
PART = r"[^\s/:@'\"]"
BARE = re.compile(rf"(?<!{PART})(?:{PART}+:|{PART}(?:(?!%3[aA]){PART})*%3[aA]){PART}+(?:@|%40)")
# password=..., "password": "...", and in the options of an address what else a driver calls it.
NAME = (
    r"[\w.-]*(?:password|passwd|passphrase|secret|api_?key|access_?key|account_?key|secret_?key)|(?:[\w.-]*[.-])?(?:pwd|token)"
)
NAMED = re.compile(rf"(?i)(?<![\w.-])((?:{NAME})(?:\s*=\s*|['\"]\s*:\s*))('[^']*'|\"[^\"]*\"|[^\s&;,)}}'\"]+)")
OPTION = re.compile(r"(?i)([?&;]\s*(?:pass|pwd|key|auth|authorization|sig|signature|sas|user|uid|odbc_connect)=)[^&\s'\"]*")
HEADER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")


class ExitCode(IntEnum):
    """The exit codes of every command of the package; SLURM scripts and tests rely on them."""

    OK = 0
    FAILED = 1
    USER_ERROR = 2
    NON_FINITE = 3
    DISPLACED = 4
    REQUEUE = 75


def printable(text: str) -> str:
    """Text as a terminal or a log may show it: what would move the cursor, recolour, reorder or break a line is spelt out,
    as `\\x1b` or `\\u202e`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def masked(text: str) -> str:
    """The text with `***` in the place of what is, or looks like, a secret."""
    for name, value in os.environ.items():
        if HOLDS_SECRET.search(name) and len(value := value.strip()) >= SHORTEST:
            text = text.replace(value, MASK)
    text = REST.sub(_without_secrets, BARE.sub(f"{MASK}@", text))
    text = NO_PORT.sub(rf"\1{MASK}", USER_INFO.sub(rf"\1{MASK}@", text))
    text = OPTION.sub(rf"\1{MASK}", text)
    return HEADER.sub(rf"\1 {MASK}", NAMED.sub(rf"\1{MASK}", text))


def _without_secrets(match: re.Match[str]) -> str:
    """What stands behind `://` without its user, and without a fragment, which no server gets."""
    rest, mark, fragment = match[2].partition("#")
    shown = rest + mark + (MASK if fragment else "")
    _, user, host = shown.rpartition("@")
    return f"{match[1]}{MASK}@{host}" if user else f"{match[1]}{shown}"


def _shortened(value: object) -> str:
    """A value as a message has room for it."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # thousands of digits, or of levels
        return f"<{type(value).__name__}>"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def printable_lines(text: str) -> str:
    """The same of a text of several lines, which stay lines."""
    return "\n".join(map(printable, text.split("\n")))


def printable_json(text: str) -> str:
    """JSON as a terminal may show it, which stays JSON."""
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with what the user gave: which key, its value, why it cannot be, and what to do."""

    key: str
    value: object
    reason: str
    fix: str

    def __str__(self) -> str:
        shown = "" if self.value is None else f" = {_shortened(self.value)}"
        key, reason, fix = map(printable, (self.key, self.reason, self.fix))
        return masked(f"{key}{shown}\n    why: {reason}\n    fix: {fix}")


class UserError(ValueError):
    """Everything found wrong with a run's input, raised once, before training starts and alike on every rank."""

    def __init__(self, *problems: Problem):
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{count} in the input of this run\n" + "\n".join(f"- {p}" for p in problems))


class SaveError(OSError):
    """A checkpoint, a model or a file could not be written, because a disk is full or fails; what was there before is what it
    was. Where ranks write together every one raises it."""


class Interrupted(Exception):
    """The ranks were told to stop and have agreed to; raised by every rank of a run alike."""


class Displaced(RuntimeError):
    """Another job has taken the run directory from this one, which must write nothing there any more."""


class NonFiniteError(ArithmeticError):
    """A loss, a gradient or a parameter stopped being finite; raised by every rank of a run alike."""


class PeerError(RuntimeError):
    """Another rank failed and told this one; that rank says how."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the known name closest to `name`, or the list of them all."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def collect(found: list[Problem], function: Callable[..., Result], *arguments: Any) -> Result | None:
    """The function's result, or None and its problems added to those `found`."""
    try:
        return function(*arguments)
    except UserError as error:
        found += error.problems
        return None


def raise_if_any(problems: Iterable[Problem]) -> None:
    """Raises one `UserError` that names all of `problems`, if there are any."""
    problems = tuple(problems)
    if problems:
        raise UserError(*problems)
