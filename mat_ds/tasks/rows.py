"""A row becomes an example, or it is said what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from mat_ds.errors import Problem, nearest
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.labels import class_of, label_text
from mat_ds.tasks.spec import TaskSpec

# What can be wrong with a row, as counts call it.
CORRUPT, ENCODING = "corrupt line", "not UTF-8"
MISSING, BLANK, LONG, LABEL = "missing text", "blank text", "long text", "wrong label"
TOKENLESS = "no tokens"
# And what leaves a row out although nothing is wrong with it.
UNLABELLED = "no agreed label"

# Characters: about 25,000 tokens, fifty times what an encoder reads. In practice it is a quote that nobody closed, or a file
# that lost its line ends, of which the model would be shown the first percent and told nothing.
LONGEST_TEXT = 100_000
# And a line or a record with all its columns: two such texts, every character of them spelt out as JSON may do.
LONGEST_LINE = 4_000_000
# Columns that a message has room for.
SHOWN_COLUMNS = 50


@dataclass(frozen=True)
class Example:
    """One sentence or pair of sentences; the label is a class index, a score, or None where it is not known.

    Attributes:
        tokens: the model inputs of prepared data, L numbers each, not padded; None where the texts are yet to be tokenised.
        where, split: what a message calls its row, and `<task>/<split>`; empty where nobody knows.
    """

    texts: tuple[str, ...]
    label: int | float | None
    tokens: Mapping[str, list[int]] | None = field(default=None, compare=False, repr=False)
    where: str = field(default="", compare=False, repr=False)
    split: str = field(default="", compare=False, repr=False)

    @property
    def length(self) -> int:
        """Characters, which stand in for tokens when examples are grouped by length."""
        return sum(len(text) for text in self.texts)

    @property
    def half_blank(self) -> bool:
        """Whether one text of a pair is blank; QQP has such pairs, and they are trained on."""
        return not all(text.strip() for text in self.texts)


@dataclass(frozen=True)
class BadRow:
    """A row that cannot become an example: the kind of fault, the value at fault, and the reason in words."""

    kind: str
    value: object
    reason: str


# What a message calls the row, and the row.
LocatedRow = tuple[str, dict[str, Any] | BadRow]


@dataclass
class Tally:
    """How many rows of a split were read, how many became examples, and how many were left out, by kind.

    Attributes:
        half_blank: examples of which one text of two is blank.
    """

    rows: int = 0
    kept: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    half_blank: int = 0

    def skip(self, kind: str) -> int:
        """Counts a row that is left out; returns how many of its kind there are now."""
        self.skipped[kind] = self.skipped.get(kind, 0) + 1
        return self.skipped[kind]

    @property
    def bad(self) -> int:
        """Rows left out because something is wrong with them."""
        return sum(count for kind, count in self.skipped.items() if kind != UNLABELLED)


def skipped_lines(tallies: Mapping[str, Tally]) -> Iterator[str]:
    """What a user is told of the rows that were left out: a line for every split and kind."""
    for split, tally in tallies.items():
        yield from (f"{split}: {count:,} of {tally.rows:,} rows, {kind}" for kind, count in tally.skipped.items())


def is_utf8(text: str) -> bool:
    """Whether `text` can be written as UTF-8: not, if it holds undecodable bytes or half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def excerpt(value: object) -> object:
    """`value`, or as much of it as a message has room for."""
    if isinstance(value, str):
        return value[:80]
    try:
        return value if len(repr(value)) <= 80 else repr(value)[:80]
    except (RecursionError, ValueError):  # nested too deep, or an integer of more digits than Python prints
        return f"a {type(value).__name__} that cannot be shown"


def repeated(names: Sequence[str]) -> tuple[str, str, str] | None:
    """What is wrong with columns of which two have one name, but for spaces around it, as (value, why, fix); else None."""
    places: dict[str, int] = {}
    for i, name in enumerate(names):
        bare = name.strip().strip("\ufeff")
        if bare in places:
            first = places[bare]
            value = f"{excerpt(names[first])!r}, {excerpt(name)!r}"
            return value, f"columns {first + 1} and {i + 1} have one name", "rename or remove the one that is not meant"
        if bare:  # spreadsheets leave columns without a name behind
            places[bare] = i
    return None


def lacking_columns(where: str, names: Iterable[object], columns: list[str]) -> Problem:
    """What to tell of a row, or a file, without these columns."""
    shown = [str(excerpt(str(name))) for name in islice(names, SHOWN_COLUMNS)]
    hints = "; ".join(f"{column}: {nearest(column, shown)}" for column in columns)
    return Problem(where, ", ".join(shown), f"lacks the column {', '.join(columns)}", hints)


def is_unlabelled(spec: TaskSpec, row: Mapping[str, Any]) -> bool:
    """Whether the annotators of a row agreed on no label."""
    value = row.get(spec.label)
    return spec.skip_unlabelled and label_text(value) in ("-1", "-") and class_of(spec, value) is None


def make_example(spec: TaskSpec, row: Mapping[str, Any], labelled: bool) -> Example | BadRow:
    """The example that a row holds, or the first thing wrong with it."""
    texts: list[str] = []
    for column in spec.text:
        text = row.get(column)
        if not isinstance(text, str):
            return BadRow(MISSING, excerpt(text), f"{column} is no text")
        if len(text) > LONGEST_TEXT:
            reason = f"{column} has {len(text):,} characters, more than {LONGEST_TEXT:,}"
            return BadRow(LONG, excerpt(text), reason)
        if not is_utf8(text):
            return BadRow(ENCODING, excerpt(text), f"{column} holds half of a surrogate pair, which is no character")
        texts.append(text)
    if not any(text.strip() for text in texts):
        return BadRow(BLANK, excerpt(texts[0]), f"{' and '.join(spec.text)} {'is' if len(texts) == 1 else 'are'} blank")
    value = row.get(spec.label)
    try:
        return Example(tuple(texts), kind_of(spec).label(value) if labelled else None)
    except ValueError as error:
        return BadRow(LABEL, excerpt(value), str(error))
