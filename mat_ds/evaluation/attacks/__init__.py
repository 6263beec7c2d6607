"""Attacks that change texts and keep their labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mat_ds.evaluation.attacks.options import RECIPES

if TYPE_CHECKING:
    from mat_ds.evaluation.attacks.base import TextAttack


def text_attack(name: str) -> type[TextAttack]:
    """The class of a text attack, given one of the names in `options.TEXT_ATTACKS`. Imported here, since they import torch."""
    from mat_ds.evaluation.attacks.benign_words import BenignWords
    from mat_ds.evaluation.attacks.characters import Characters
    from mat_ds.evaluation.attacks.hotflip import HotFlip
    from mat_ds.evaluation.attacks.importance import Importance
    from mat_ds.evaluation.attacks.triggers import Triggers

    if name in RECIPES:
        from mat_ds.evaluation.attacks.recipes import recipe

        return recipe(name)
    return {attack.name: attack for attack in (Characters, BenignWords, HotFlip, Importance, Triggers)}[name]
