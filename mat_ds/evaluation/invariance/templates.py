"""Texts from templates: `{slot}` stands for each of several fills, as in CheckList (Ribeiro et al. 2020)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from random import Random
from string import Formatter

from mat_ds.sampling.keys import Part, seed_from

SLOT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def template_pieces(template: str) -> list[tuple[str, str | None]]:
    """The template in pieces: text, and the slot after it, or None. `{{` and `}}` stand for braces.

    Raises:
        ValueError: with the reason, if a brace is not closed, or what it holds is not the name of a slot.
    """
    try:
        found = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"has a brace that is no slot ({error})") from None
    for _, slot, form, conversion in found:
        if slot is not None and (form or conversion or not SLOT.fullmatch(slot)):
            raise ValueError(f"has {{{slot}}}, which is not the name of a slot")
    return [(text, slot) for text, slot, _, _ in found]


def slots_in(template: str) -> list[str]:
    """The slots of a template in the order in which they first stand there; raises `ValueError` as `template_pieces` does."""
    return list(dict.fromkeys(slot for _, slot in template_pieces(template) if slot is not None))


def filled(template: str, fills: Mapping[str, str]) -> str:
    """The template with each slot replaced by its fill, in which braces mean nothing."""
    return "".join(text + ("" if slot is None else fills[slot]) for text, slot in template_pieces(template))


def count_of(slots: Mapping[str, Sequence[str]]) -> int:
    """The number of combinations of fills."""
    return prod(map(len, slots.values()))


def combinations(slots: Mapping[str, Sequence[str]], most: int, key: tuple[Part, ...]) -> list[dict[str, str]]:
    """All combinations of fills, or `most` different ones that depend on the key alone; the last slot changes fastest.

    Args:
        slots: the fills of each slot.
        key: of the draw.
    """
    total = count_of(slots)
    numbers = set(range(total)) if total <= most else set[int]()
    random = Random(seed_from(*key))
    while len(numbers) < min(most, total):
        numbers.add(random.randrange(total))
    return [_combination(slots, number) for number in sorted(numbers)]


def _combination(slots: Mapping[str, Sequence[str]], number: int) -> dict[str, str]:
    chosen = {}
    for slot, fills in reversed(list(slots.items())):
        number, place = divmod(number, len(fills))
        chosen[slot] = fills[place]
    return chosen
