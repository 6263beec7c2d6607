"""An example of a task, and a row that is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mat_ds.config.text_files import is_unicode

# Kinds of bad rows, as shown in counts.
CORRUPT, ENCODING = "corrupt line", "not UTF-8"
MISSING, BLANK, LONG, LABEL, WEIGHT = "missing text", "blank text", "long text", "wrong label", "wrong weight"
TOKENLESS = "no tokens"
# Characters, about 25,000 tokens: fifty times what an encoder reads. A longer text is usually an unclosed quote or a file
# without line ends.
LONGEST_TEXT = 100_000

# A class index, a score, or what a kind of task makes of its label column; a value that JSON can hold.
Label = int | float | str | tuple["Label", ...]


@dataclass(frozen=True)
class Example:
    """A sample with its label.

    Attributes:
        texts: a text or the two of a pair; of other kinds of tasks, words, or a question and its choices.
        label: None if unknown.
        tokens: model inputs of prepared data, L numbers each, not padded; None if not tokenised yet.
        where, split: location of its row for messages, and `<task>/<split>`; empty if unknown.
        weight: of its loss in training.
        probabilities: of each label where the label is not certain; `label` is then the most probable one.
        group: of its row's column `group` of the task; None if there is none.
        part: which of the parts that its example was cut into, from 0.
    """

    texts: tuple[str, ...]
    label: Label | None
    tokens: Mapping[str, list[int]] | None = field(default=None, compare=False, repr=False)
    where: str = field(default="", compare=False, repr=False)
    split: str = field(default="", compare=False, repr=False)
    weight: float = 1.0
    probabilities: tuple[float, ...] | None = None
    part: int = field(default=0, repr=False)
    group: str | None = field(default=None, compare=False, repr=False)

    @property
    def content(self) -> tuple[object, ...]:
        """Everything that training depends on, in a form that digests of older versions have too."""
        more = () if self.weight == 1.0 and self.probabilities is None else (self.weight, self.probabilities)
        return self.texts, self.label, *more

    @property
    def length(self) -> int:
        """Characters, a proxy for tokens when examples are grouped by length; a label that is a text is read too."""
        return sum(len(text) for text in self.texts) + (len(self.label) if isinstance(self.label, str) else 0)

    @property
    def half_blank(self) -> bool:
        """Whether one text of a pair is blank; QQP has such pairs, which are kept."""
        return not all(text.strip() for text in self.texts)


def whole_examples(parts: Sequence[Example]) -> Sequence[Example]:
    """The examples that parts were cut from."""
    return [example for example in parts if example.part == 0] if any(example.part for example in parts) else parts


@dataclass(frozen=True)
class BadRow:
    """A row that cannot become an example: kind of fault, offending value, reason."""

    kind: str
    value: object
    reason: str


def excerpt(value: object) -> object:
    """`value`, shortened for a message."""
    if isinstance(value, str):
        return value[:80]
    try:
        return value if len(repr(value)) <= 80 else repr(value)[:80]
    except (RecursionError, ValueError):  # too deeply nested, or an integer with more digits than Python prints
        return f"a {type(value).__name__} that cannot be shown"


def text_fault(column: str, text: object) -> BadRow | None:
    """What is wrong with a value of a text column; None if it is a text."""
    if not isinstance(text, str):
        return BadRow(MISSING, excerpt(text), f"{column} is not a text")
    if len(text) > LONGEST_TEXT:
        return BadRow(LONG, excerpt(text), f"{column} has {len(text):,} characters, more than {LONGEST_TEXT:,}")
    if not is_unicode(text):
        return BadRow(ENCODING, excerpt(text), f"{column} contains half of a surrogate pair, which is not a character")
    return None


def texts_in(row: Mapping[str, Any], columns: Sequence[str]) -> tuple[str, ...] | BadRow:
    """The texts in columns that hold one each, or the first fault found."""
    texts = tuple(row.get(column) for column in columns)
    for column, text in zip(columns, texts, strict=True):
        if fault := text_fault(column, text):
            return fault
    if not any(text.strip() for text in texts if text):
        return BadRow(BLANK, excerpt(texts[0]), f"{' and '.join(columns)} {'is' if len(texts) == 1 else 'are'} blank")
    return texts  # type: ignore[return-value]
