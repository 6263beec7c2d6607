"""Error classes, their exit codes, and how messages are made safe to print: no secrets, no control characters."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

Result = TypeVar("Result")

# A longer value is cut off in a message.
MOST_SHOWN = 500

# Of a shorter name it is chance that a known one begins with it.
SHORTEST_START = 3

MASK = "***"
# Names of environment variables that hold a secret, by their ending. PWD alone is the working folder, no secret.
HOLDS_SECRET = re.compile(
    r"(?:TOKEN|PASSWORD|PASSWD|PASSPHRASE|SECRET|API_?KEY|ACCESS_KEY|ACCOUNT_KEY|PRIVATE_KEY|SECRET_KEY|"
    r"CONNECTION_STRING|_PWD|_PASS)$",
    re.I,
)
# A shorter secret is not masked: it could occur in any text by chance.
SHORTEST = 4

# Messages quote untrusted text, so none of these patterns may backtrack: their time must grow linearly with the text.
ADDRESS = r"(?<!sqlite)(?<!file)(://)"
REST = re.compile(rf"{ADDRESS}([^\s'\"]*)")
# user:password@ after the separator; the password may contain blanks and quotes.
USER_INFO = re.compile(rf"{ADDRESS}[^/\s:@]*:[^/\n@]*@")
# host:something, where something is not a port number.
NO_PORT = re.compile(rf"{ADDRESS}(?:\[[\da-fA-F:.]+\]|[^\[/\s:@'\"*][^/\s:@'\"]*):(?!\d{{1,5}}(?![\w%]|:[^\s'\"]))[^\s/'\"]+")
# user:password@host without a scheme; the colon and the @ may be percent-encoded.
PART = r"[^\s/:@'\"]"
BARE = re.compile(rf"(?<!{PART})(?:{PART}+:|{PART}(?:(?!%3[aA]){PART})*%3[aA]){PART}+(?:@|%40)")
# password=... or "password": "...", and further names that database drivers use in a URL's query.
NAME = (
    r"[\w.-]*(?:password|passwd|passphrase|secret|api_?key|access_?key|account_?key|secret_?key)|(?:[\w.-]*[.-])?(?:pwd|token)"
)
NAMED = re.compile(rf"(?i)(?<![\w.-])((?:{NAME})(?:\s*=\s*|['\"]\s*:\s*))('[^']*'|\"[^\"]*\"|[^\s&;,)}}'\"]+)")
OPTION = re.compile(r"(?i)([?&;]\s*(?:pass|pwd|key|auth|authorization|sig|signature|sas|user|uid|odbc_connect)=)[^&\s'\"]*")
HEADER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")


class ExitCode(IntEnum):
    """Exit codes of every command; SLURM scripts and tests rely on them."""

    OK = 0
    FAILED = 1
    USER_ERROR = 2
    NON_FINITE = 3
    DISPLACED = 4
    UNMET = 4  # of commands that take --require, none of which can be displaced
    REQUEUE = 75


def printable(text: str) -> str:
    """The text with control, formatting and line-break characters escaped, as in `\\x1b` or `\\u202e`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def masked(text: str) -> str:
    """The text with every secret, and everything that looks like one, replaced by `***`."""
    for name, value in os.environ.items():
        if HOLDS_SECRET.search(name) and len(value := value.strip()) >= SHORTEST:
            text = text.replace(value, MASK)
    text = REST.sub(_without_secrets, BARE.sub(f"{MASK}@", text))
    text = NO_PORT.sub(rf"\1{MASK}", USER_INFO.sub(rf"\1{MASK}@", text))
    text = OPTION.sub(rf"\1{MASK}", text)
    return HEADER.sub(rf"\1 {MASK}", NAMED.sub(rf"\1{MASK}", text))


def _without_secrets(match: re.Match[str]) -> str:
    """The part of a URL after `://`, without user and fragment (a fragment is never sent to a server)."""
    rest, mark, fragment = match[2].partition("#")
    shown = rest + mark + (MASK if fragment else "")
    _, user, host = shown.rpartition("@")
    return f"{match[1]}{MASK}@{host}" if user else f"{match[1]}{shown}"


def _shortened(value: object) -> str:
    """`repr` of a value, cut off after MOST_SHOWN characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an int with too many digits, or nesting that is too deep
        return f"<{type(value).__name__}>"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def printable_lines(text: str) -> str:
    """`printable` for each line of a text; line breaks stay."""
    return "\n".join(map(printable, text.split("\n")))


def printable_json(text: str) -> str:
    """JSON text with unprintable characters written as JSON escapes."""
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


@dataclass(frozen=True)
class Problem:
    """One mistake in the user's input: the key, its value, the reason it is wrong, and how to fix it."""

    key: str
    value: object
    reason: str
    fix: str

    def __str__(self) -> str:
        shown = "" if self.value is None else f" = {_shortened(self.value)}"
        key, reason, fix = map(printable, (self.key, self.reason, self.fix))
        return masked(f"{key}{shown}\n    why: {reason}\n    fix: {fix}")


class UserError(ValueError):
    """All problems in the user's input. Raised once, before training starts, and identically on every rank."""

    def __init__(self, *problems: Problem):
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        return f"{count} found\n" + "\n".join(f"- {problem}" for problem in self.problems)


class SaveError(OSError):
    """A checkpoint, model or file could not be written, because a disk is full or broken. Files that existed before are
    unchanged. If ranks write together, all of them raise it."""


class Interrupted(Exception):
    """The run was asked to stop, and all ranks have agreed to; every rank raises it."""


class Displaced(RuntimeError):
    """Another job has taken over the run directory; this job must not write there any more."""


class NonFiniteError(ArithmeticError):
    """A loss, gradient or parameter is not finite; every rank raises it."""


class PeerError(RuntimeError):
    """Another rank failed and notified this one; that rank reports the cause."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the known name most similar to `name`, or lists all known names."""
    known = sorted(known)
    found = closest(name, known)
    return f"known: {', '.join(known)}" if found is None else f"did you mean {found!r}?"


def first_names(names: Sequence[str], most: int) -> str:
    """Names for a message: at most so many, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that begins with `name` or is most similar to it, whatever their cases; None if none is similar."""
    folded, name = {each.casefold(): each for each in known}, name.casefold()
    begun = [each for each in folded if each.startswith(name)] if len(name) >= SHORTEST_START else []
    close = difflib.get_close_matches(name, begun or folded, n=1, cutoff=0.0 if begun else 0.6)
    return folded[close[0]] if close else None


def collect_problems(found: list[Problem], function: Callable[..., Result], *arguments: Any) -> Result | None:
    """Calls a function. If it raises `UserError`, adds its problems to `found` and returns None."""
    try:
        return function(*arguments)
    except UserError as error:
        found += error.problems
        return None


def raise_if_any(problems: Iterable[Problem]) -> None:
    """Raises one `UserError` with all of `problems`, if there are any."""
    problems = tuple(problems)
    if problems:
        raise UserError(*problems)
