"""Reads CoNLL files: a line for each word, its columns divided by blanks or tabs; a blank line ends a sentence.

The first column is the word and the last its tag. Lines that begin with -DOCSTART- divide documents and are skipped. A file of
one column has words alone, for predictions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mat_ds.config.text_files import is_unicode
from mat_ds.tasks.example import CORRUPT, ENCODING, LONG, LONGEST_TEXT, BadRow, excerpt
from mat_ds.tasks.lines import bounded_lines, open_text
from mat_ds.tasks.rows import LocatedRow
from mat_ds.tasks.spec import TAGS, TOKENS

DOCUMENT = "-DOCSTART-"
# Only these: words may hold other characters that Python takes for blanks.
BLANKS = re.compile(r"[ \t]+")


def read_conll(path: Path) -> Iterator[LocatedRow]:
    """Yields a row for each sentence, its words as `tokens` and their tags as `tags`; its place is that of its first line."""
    with open_text(path, newline="\n") as file:
        for first, lines in _blocks(bounded_lines(file)):
            yield f"{path}:{first}", _as_row(lines)


def _blocks(lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    """Yields the lines of each sentence with the number of the first; of a long one as many as show that it is too long."""
    sentence: list[str] = []
    first = characters = 0
    for number, line in enumerate(lines, start=1):
        bare = line.strip(" \t\r\n")
        if bare and not bare.startswith(DOCUMENT):
            first = first if sentence else number
            if characters <= LONGEST_TEXT:
                sentence.append(bare)
                characters += len(bare)
        elif sentence:
            yield first, sentence
            sentence, characters = [], 0
    if sentence:
        yield first, sentence


def _as_row(lines: list[str]) -> dict[str, list[str]] | BadRow:
    if sum(map(len, lines)) > LONGEST_TEXT:
        reason = f"is a sentence of more than {LONGEST_TEXT:,} characters, so blank lines between sentences may be missing"
        return BadRow(LONG, excerpt(lines[0]), reason)
    if wrong := next((line for line in lines if not is_unicode(line)), None):
        return BadRow(ENCODING, excerpt(wrong), "is not UTF-8 text")
    columns = [BLANKS.split(line) for line in lines]
    for number, found in enumerate(columns):
        if len(found) != len(columns[0]):
            reason = f"line {number + 1} of the sentence has {len(found)} columns, the first {len(columns[0])}"
            return BadRow(CORRUPT, excerpt(lines[number]), reason)
    row = {TOKENS: [found[0] for found in columns]}
    return row if len(columns[0]) == 1 else {**row, TAGS: [found[-1] for found in columns]}
