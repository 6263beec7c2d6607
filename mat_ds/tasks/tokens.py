"""Examples of which a tokenizer makes nothing, so that a model would answer for a text it has not seen, or for none at all."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from mat_ds.errors import Problem, UserError, raise_if_any
from mat_ds.tasks.examples import SHOWN, Splits, TaskData
from mat_ds.tasks.loader import tokenise
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.rows import TOKENLESS, UNLABELLED, Example, Tally, excerpt
from mat_ds.tasks.stored import StoredExamples

# Examples tokenised at a time.
BATCH = 1000
REASON = "has no tokens: the model's tokenizer leaves nothing of it"


def tokenless(tokenizer: Any, examples: Sequence[Example], max_length: int) -> Iterator[int]:
    """Positions of the examples of which no token is left but those that mark the ends of every text.

    A text with a letter, a digit or a sign in it is tokenised only for a model that marks no ends, to which an input without
    tokens is no input. Stored tokens are some: a row without is refused where they are read.
    """
    if not len(examples) or (isinstance(examples, StoredExamples) and examples.tokenised):
        return
    marks = tokenizer.num_special_tokens_to_add(pair=len(examples[0].texts) == 2)
    doubtful: list[tuple[int, Example]] = []

    def among() -> Iterator[int]:
        lengths = map(len, tokenise(tokenizer, [example for _, example in doubtful], max_length)["input_ids"])
        yield from (i for (i, _), length in zip(doubtful, lengths, strict=True) if length <= marks)
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
    """Whether a text is more than spaces, control characters and marks without a letter to stand on."""
    return any(c.isalnum() for c in text) or any(unicodedata.category(c)[0] in "LNPS" for c in text)


def token_problems(tokenizer: Any, examples: Sequence[Example], max_length: int) -> Iterator[Problem]:
    """The examples without tokens, where none may be left out."""
    for i in tokenless(tokenizer, examples, max_length):
        yield _problem(examples[i], "the texts", "mend or delete the row")


def with_tokens(data: TaskData, tokenizer: Any, max_length: int, options: DataConfig) -> TaskData:
    """The data without its examples that have no tokens, which are bad rows like any other.

    Args:
        tokenizer, max_length: what makes tokens of texts, and how many are left of them.
        options: whether bad rows are left out.

    Raises:
        UserError: naming them, if they are not to be left out or are too many; or a stored token that the tokenizer never made.
    """
    problems: list[Problem] = []
    known = max(tokenizer.get_vocab().values(), default=-1)
    for examples in (data.train, *data.dev.values(), *data.test.values()):
        if isinstance(examples, StoredExamples) and (highest := examples.highest("input_ids")) > known:
            reason = f"holds the token {highest}, and the tokenizer knows none above {known}"
            raise UserError(Problem("data.path", options.path, reason, f"run `mat-ds prepare {options.path}` again"))

    def kept(split: str | None, examples: Sequence[Example]) -> Sequence[Example]:
        found = set(tokenless(tokenizer, examples, max_length))
        if not found:
            return examples
        numbered = split in data.test
        by_row = {examples[i].where or str(i): examples[i] for i in sorted(found)}
        problems.extend(_verdict(f"{data.spec.name}/{split or 'train'}", by_row, numbered, options, data.tallies))
        return [examples[i] for i in range(len(examples)) if i not in found]

    train = kept(None, data.train)
    dev: Splits = {split: kept(split, examples) for split, examples in data.dev.items()}
    test: Splits = {split: kept(split, examples) for split, examples in data.test.items()}
    raise_if_any(problems)
    return replace(data, train=train, dev=dev, test=test)


def _verdict(
    name: str, found: dict[str, Example], numbered: bool, options: DataConfig, tallies: dict[str, Tally]
) -> Iterator[Problem]:
    """What a split is refused for; what is left out is counted.

    Args:
        name: of the split.
        found: its examples without tokens, by row: one that is shown several times an epoch is one row.
        numbered: whether predictions on it are numbered by its rows, so that none can be left out.
    """
    leave_out = options.bad_rows == "skip" and not numbered
    for example in found.values() if leave_out else ():
        tally = tallies.get(example.split or name)
        if tally is None:
            continue
        tally.skip(TOKENLESS)
        tally.kept -= 1
        if 2 * tally.bad > tally.rows - tally.skipped.get(UNLABELLED, 0):
            leave_out = False
    if leave_out:
        return
    fix = "mend or delete the row" + ("" if numbered or options.bad_rows == "skip" else ", or pass data.bad_rows=skip")
    yield from (_problem(example, name, fix) for example in list(found.values())[:SHOWN])
    if len(found) > SHOWN:
        reason = f"{len(found) - SHOWN} more rows are wrong ({len(found)} in all: {TOKENLESS})"
        yield Problem(name, None, reason, "mend the file")


def _problem(example: Example, name: str, fix: str) -> Problem:
    return Problem(example.where or name, excerpt(" / ".join(example.texts)), REASON, fix)
