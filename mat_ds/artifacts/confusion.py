"""The confusion matrix of a finished run: its structure in `results.json`, and as Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import Field, model_validator

from mat_ds.errors import printable
from mat_ds.tracking.mirrored import Shape

# Labels of a table; of more, the pairs that are confused most are listed.
WIDEST, LISTED = 10, 10

Counts = Sequence[Sequence[int]]


class Confusion(Shape):
    """`confusion` in `results.json`: `counts` of each split has a row for each label and a column for each answer."""

    labels: list[str]
    counts: dict[str, list[list[Annotated[int, Field(ge=0, lt=2**53)]]]]

    @model_validator(mode="after")
    def _is_square(self) -> Confusion:
        if any({len(table), *map(len, table)} != {len(self.labels)} for table in self.counts.values()):
            raise ValueError(f"its counts are not of {len(self.labels)} labels")
        return self


def confusion_text(found: dict[str, Any]) -> str:
    """The confusion on each split, given what is in `results.json`, with a line that introduces it."""
    labels = found["labels"]
    return "".join(line for split, counts in found["counts"].items() for line in _of_split(labels, split, counts))


def _of_split(labels: Sequence[str], split: str, counts: Counts) -> Iterator[str]:
    if len(labels) <= WIDEST:
        yield f"\nOn {markdown(split)}, examples by label (rows) and answer (columns):\n\n"
        yield f"| | {' | '.join(map(markdown, labels))} |\n"
        yield f"|---|{'---|' * len(labels)}\n"
        yield from (f"| {markdown(label)} | {' | '.join(map(str, row))} |\n" for label, row in zip(labels, counts, strict=True))
    elif pairs := confused(labels, counts)[:LISTED]:
        yield f"\nConfused most on {markdown(split)}:\n\n| label | answer | examples |\n|---|---|---|\n"
        yield from (f"| {markdown(gold)} | {markdown(answer)} | {count} |\n" for gold, answer, count in pairs)


def confused(labels: Sequence[str], counts: Counts) -> list[tuple[str, str, int]]:
    """(label, wrong answer, examples) of all that were confused, the most frequent first."""
    pairs = (
        (gold, answer, count)
        for i, (gold, row) in enumerate(zip(labels, counts, strict=True))
        for j, (answer, count) in enumerate(zip(labels, row, strict=True))
        if i != j and count
    )
    return sorted(pairs, key=lambda pair: -pair[2])


def markdown(text: str) -> str:
    """Untrusted text as one line of Markdown, with markup and HTML escaped."""
    return re.sub(r"([\\`*_\[\]|#~!])", r"\\\1", html.escape(printable(text), quote=False))
