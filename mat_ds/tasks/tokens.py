"""Finds examples for which the tokenizer produces no tokens, so that the model would see an empty input."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from mat_ds.errors import Problem, UserError, raise_if_any
from mat_ds.tasks.example import TOKENLESS, BadRow, Example, excerpt
from mat_ds.tasks.examples import Splits, TaskData
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.kinds.base import Kind
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.rows import SHOWN, Tally, refusals
from mat_ds.tasks.stored import StoredExamples

# Examples tokenised at a time.
BATCH = 1000
REASON = "has no tokens: the model's tokenizer leaves nothing of it"


def tokenless(tokenizer: Any, examples: Sequence[Example], max_length: int, kind: Kind) -> Iterator[int]:
    """Yields positions of examples whose only tokens are special tokens.

    Texts with letters, digits or symbols are only tokenised to check if the tokenizer adds no special tokens, since an
    empty input would then fail. Stored tokens are never empty: that is checked when they are read.
    """
    if not len(examples) or (isinstance(examples, StoredExamples) and examples.tokenised):
        return
    marks = tokenizer.num_special_tokens_to_add(pair=kind.texts_at_once == 2)
    doubtful: list[tuple[int, Example]] = []

    def among() -> Iterator[int]:
        lengths = map(len, kind.tokens(tokenizer, [example for _, example in doubtful], max_length))
        counted = zip(doubtful, lengths, strict=True)
        yield from (i for (i, example), length in counted if length <= marks * kind.inputs_of(example))
        doubtful.clear()

    for i in range(len(examples)):
        example = examples[i]
        if not example.tokens and (marks == 0 or not any(map(_has_substance, example.texts))):
            doubtful.append((i, example))
        if len(doubtful) == BATCH:
            yield from among()
    if doubtful:
        yield from among()


def _has_substance(text: str) -> bool:
    """Whether a text contains anything besides spaces, control characters and combining marks."""
    return any(c.isalnum() for c in text) or any(unicodedata.category(c)[0] in "LNPS" for c in text)


def token_problems(tokenizer: Any, examples: Sequence[Example], max_length: int, kind: Kind) -> Iterator[Problem]:
    """Yields a problem for each example without tokens; for splits in which no row may be skipped."""
    for i in tokenless(tokenizer, examples, max_length, kind):
        row = _tokenless_row(examples[i])
        yield Problem(examples[i].where or "the texts", row.value, row.reason, "mend or delete the row")


def with_tokens(data: TaskData, tokenizer: Any, max_length: int, options: DataConfig) -> TaskData:
    """The data without the examples that have no tokens, which are treated as bad rows, and in the parts that a model reads.

    Args:
        tokenizer, max_length: of the run.
        options: decide whether bad rows are skipped.

    Raises:
        UserError: if such rows may not be skipped, or are too many; or if stored tokens are outside the tokenizer's vocabulary.
    """
    problems: list[Problem] = []
    kind = kind_of(data.spec)
    known = max(tokenizer.get_vocab().values(), default=-1)
    for examples in (data.train, *data.dev.values(), *data.test.values()):
        if isinstance(examples, StoredExamples) and (highest := examples.highest("input_ids")) > known:
            reason = f"holds the token {highest}, but the tokenizer's highest token is {known}"
            raise UserError(Problem("data.path", options.path, reason, f"run `mat-ds prepare {options.path}` again"))

    def kept(split: str | None, examples: Sequence[Example]) -> Sequence[Example]:
        found = set(tokenless(tokenizer, examples, max_length, kind))
        if not found:
            return examples
        bad: dict[str, list[tuple[str, BadRow]]] = {}
        # An example that an epoch shows several times is one row.
        for example in {examples[i].where or str(i): examples[i] for i in sorted(found)}.values():
            name = example.split or f"{data.spec.name}/{split or 'train'}"
            tally = data.tallies.setdefault(name, Tally(len(examples), len(examples)))
            tally.kept -= 1
            rows = bad.setdefault(name, [])
            if tally.skip(TOKENLESS) <= SHOWN:
                rows.append((example.where or name, _tokenless_row(example)))
        for name, rows in bad.items():
            problems.extend(refusals(name, data.tallies[name], rows, split in data.test, options))
        return [examples[i] for i in range(len(examples)) if i not in found]

    train = kept(None, data.train)
    dev: Splits = {split: kept(split, examples) for split, examples in data.dev.items()}
    test: Splits = {split: kept(split, examples) for split, examples in data.test.items()}
    raise_if_any(problems)

    if kind.label_per_text:
        for split, examples in {"train": train, **dev, **test}.items():
            name = f"{data.spec.name}/{split}"
            tally = data.tallies.setdefault(name, Tally(len(examples), len(examples)))
            chunks = [examples[first : first + BATCH] for first in range(0, len(examples), BATCH)]
            tally.words = sum(len(example.texts) for chunk in chunks for example in chunk)
            tally.unread = sum(kind.unread(tokenizer, chunk, max_length) for chunk in chunks)

    def in_parts(splits: Splits) -> Splits:
        return {split: kind.parts(tokenizer, examples, max_length) for split, examples in splits.items()}

    return replace(data, train=kind.parts(tokenizer, train, max_length), dev=in_parts(dev), test=in_parts(test))


def _tokenless_row(example: Example) -> BadRow:
    return BadRow(TOKENLESS, excerpt(" / ".join(example.texts)), REASON)
