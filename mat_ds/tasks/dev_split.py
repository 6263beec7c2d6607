"""Cuts a dev split from training examples, the same in every run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import floor

from mat_ds.errors import Problem, UserError
from mat_ds.tasks.example import Example
from mat_ds.tasks.rows import Tally

# Mixed into the digest of each text, so that no other choice made by digests of texts agrees with this one.
PURPOSE = "dev split"


def cut_dev_split(
    every: Sequence[Example], name: str, share: float, stratified: bool, tallies: dict[str, Tally]
) -> tuple[list[Example], list[Example]]:
    """Cuts training examples in two: those to train on and those to validate on, each in their order.

    Args:
        every: all examples of the training split.
        name: of the dev split, as in `tallies`.
        share, stratified: as in `dev_texts`.
        tallies: of the training split, whose counts are divided.

    Raises:
        UserError: if nothing is left for one of the two.
    """
    kept = dev_texts(every, share, stratified)
    train = [example for example in every if example.texts not in kept]
    dev = [replace(example, split=name) for example in every if example.texts in kept]
    if not train or not dev:
        reason = f"leaves {len(train)} of {len(every)} examples to train on, and {len(dev)} to validate on"
        raise UserError(Problem("data.dev_share", share, reason, "pass another share, or data.validation=<file>"))
    (tally,) = tallies.values()
    tallies[name] = Tally(len(dev), len(dev), half_blank=sum(example.half_blank for example in dev))
    tally.rows, tally.kept = tally.rows - len(dev), len(train)
    tally.half_blank -= tallies[name].half_blank
    return train, dev


def dev_texts(examples: Iterable[Example], share: float, stratified: bool) -> set[tuple[str, ...]]:
    """The texts to keep for validation.

    They are chosen by a digest of themselves: neither seed nor order of the rows nor the number of ranks matters. Rows with the
    same texts stay together, so that no text is both trained on and scored.

    Args:
        examples: all of them.
        share: of the distinct texts, between 0 and 1.
        stratified: whether each class is cut in the same proportion. Of every class one text at least remains for training.
    """
    labels: dict[tuple[str, ...], int | float] = {}
    for example in examples:
        label = example.label if stratified else 0
        assert isinstance(label, int | float)
        # Of a text with several labels the lowest counts, whatever row comes first.
        labels[example.texts] = min(label, labels.get(example.texts, label))
    strata: dict[int | float, list[tuple[str, ...]]] = {}
    for texts, label in labels.items():
        strata.setdefault(label, []).append(texts)
    seats = _seats({label: len(members) for label, members in strata.items()}, share)
    return {texts for label, members in strata.items() for texts in sorted(members, key=_digest_of_texts)[: seats[label]]}


def _seats(sizes: dict[int | float, int], share: float) -> dict[int | float, int]:
    """How many of each stratum are cut: its share rounded down, and what the whole still lacks where most was rounded off."""
    exact = {label: share * size for label, size in sizes.items()}
    seats = {label: floor(wanted) for label, wanted in exact.items()}
    lacking = max(1, round(share * sum(sizes.values()))) - sum(seats.values())
    able = [label for label, size in sizes.items() if seats[label] + 1 < size]
    for label in sorted(able, key=lambda label: (seats[label] - exact[label], label))[: max(0, lacking)]:
        seats[label] += 1
    return seats


def _digest_of_texts(texts: Sequence[str]) -> bytes:
    return hashlib.sha256(repr((PURPOSE, texts)).encode("utf-8", "surrogatepass")).digest()
