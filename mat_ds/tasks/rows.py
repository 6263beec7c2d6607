"""Turns rows into examples, or reports what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from mat_ds.errors import Problem, nearest
from mat_ds.tasks.example import LABEL, WEIGHT, BadRow, Example, excerpt
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.labels import class_of, label_text, score_of
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.spec import TaskSpec

# The kind of a row that is skipped although nothing is wrong with it.
UNLABELLED = "no agreed label"

# Characters of a line or record with all its columns: two such texts, with every character escaped as in JSON.
LONGEST_LINE = 4_000_000
# Columns shown in a message.
SHOWN_COLUMNS = 50
# Problems shown per kind.
SHOWN = 5


# The location of a row for messages, and the row.
LocatedRow = tuple[str, dict[str, Any] | BadRow]


@dataclass
class Tally:
    """Counts of a split's rows: read, kept, and skipped by kind.

    Attributes:
        half_blank: kept pairs of which one text is blank.
        words, unread: of kept rows whose words are labelled: all, and those of which the model reads nothing.
    """

    rows: int = 0
    kept: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    half_blank: int = 0
    words: int = 0
    unread: int = 0

    def skip(self, kind: str) -> int:
        """Counts a skipped row; returns how many of its kind were skipped so far."""
        self.skipped[kind] = self.skipped.get(kind, 0) + 1
        return self.skipped[kind]

    @property
    def bad(self) -> int:
        """Rows skipped because something is wrong with them."""
        return sum(count for kind, count in self.skipped.items() if kind != UNLABELLED)


def skipped_lines(tallies: Mapping[str, Tally]) -> Iterator[str]:
    """Yields a line for the user about each split and kind of skipped rows."""
    for split, tally in tallies.items():
        yield from (f"{split}: {count:,} of {tally.rows:,} rows, {kind}" for kind, count in tally.skipped.items())
        if tally.unread:
            yield f"{split}: {tally.unread:,} of {tally.words:,} words, past data.max_length or without a token"


def repeated(names: Sequence[str]) -> tuple[str, str, str] | None:
    """Finds two columns with the same name, ignoring spaces around it. Returns (value, reason, fix) of a problem, or None."""
    places: dict[str, int] = {}
    for i, name in enumerate(names):
        bare = name.strip().strip("\ufeff")
        if bare in places:
            first = places[bare]
            value = f"{excerpt(names[first])!r}, {excerpt(name)!r}"
            return value, f"columns {first + 1} and {i + 1} have one name", "rename or remove one of them"
        if bare:  # spreadsheets leave unnamed columns behind
            places[bare] = i
    return None


def lacking_columns(where: str, names: Iterable[object], columns: list[str], way: str) -> Problem:
    """The problem that a row or file lacks `columns`.

    Args:
        names: the columns that it has.
        way: how the user can name others.
    """
    shown = [str(excerpt(str(name))) for name in islice(names, SHOWN_COLUMNS)]
    hints = [f"{column}: {nearest(column, shown)}" for column in columns]
    return Problem(where, ", ".join(shown), f"lacks the column {', '.join(columns)}", "; ".join([*hints, way]))


def naming(spec: TaskSpec, columns: Iterable[str]) -> str:
    """How a task's description names other columns than these."""
    known = {spec.label: "label: <column>", spec.weight: "weight: <column>"}
    keys = dict.fromkeys(known.get(column, "text: [<column>, ...]") for column in columns)
    return f"rename the file's, or write `{'` and `'.join(keys)}` in the task YAML"


def is_unlabelled(spec: TaskSpec, row: Mapping[str, Any]) -> bool:
    """Whether a row is marked as having no label that annotators agreed on."""
    value = row.get(spec.label)
    return spec.skip_unlabelled and label_text(value) in ("-1", "-") and class_of(spec, value) is None


def make_example(spec: TaskSpec, row: Mapping[str, Any], labelled: bool) -> Example | BadRow:
    """The example in a row, or the first fault found."""
    kind = kind_of(spec)
    texts = kind.texts(row)
    if isinstance(texts, BadRow):
        return texts
    if not labelled:
        return Example(texts, None)
    value, weight = row.get(spec.label), 1.0
    if spec.weight is not None:
        given = row.get(spec.weight)
        if (found := score_of(given)) is None or not 0 <= found < math.inf:
            return BadRow(WEIGHT, excerpt(given), f"{spec.weight} is not a weight: a number, 0 or more")
        weight = found
    try:
        if probabilities := kind.probabilities(value):
            likeliest = probabilities.index(max(probabilities))
            return Example(texts, likeliest, weight=weight, probabilities=probabilities)
        return Example(texts, kind.label_of(row, texts), weight=weight)
    except ValueError as error:
        return BadRow(LABEL, excerpt(row.get(spec.label)), str(error))


def refusals(
    name: str, tally: Tally, bad: Sequence[tuple[str, BadRow]], numbered: bool, options: DataConfig
) -> Iterator[Problem]:
    """Yields the reasons to refuse a split.

    Args:
        name, tally: of the split.
        bad: the first few bad rows of each kind, with their places.
        numbered: whether predictions on the split are numbered by its rows, so that no row may be skipped.
        options: say whether bad rows may be skipped.
    """
    if not tally.kept and not bad:
        yield Problem(name, None, "has no examples", "provide at least one row")
    most = 2 * tally.bad > tally.rows - tally.skipped.get(UNLABELLED, 0)
    if options.bad_rows == "skip" and not numbered and not most:
        return
    fix = "mend or delete the row" + ("" if numbered or most else ", or pass data.bad_rows=skip")
    for where, row in bad:
        yield Problem(where, row.value, row.reason, fix)
    if options.bad_rows == "skip" and bad:
        reason = "the predictions on a test split are numbered by its rows" if numbered else "they are more than half"
        yield Problem(name, f"{tally.bad} of {tally.rows} rows", f"bad rows cannot be skipped here: {reason}", "mend the file")
    for kind, count in tally.skipped.items():
        if kind != UNLABELLED and count > SHOWN:
            yield Problem(name, None, f"{count - SHOWN} more rows are wrong ({count} in all: {kind})", "mend the file")
