"""Attacks the examples of a split on all ranks, and says what came of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from mat_ds.evaluation.attacks import text_attack
from mat_ds.evaluation.attacks.base import Attacked, TextAttack, Victim
from mat_ds.evaluation.attacks.options import TextAttackOptions
from mat_ds.evaluation.scores import Evaluator
from mat_ds.ranks.collectives import from_all_ranks
from mat_ds.sampling.keys import Part, seed_from
from mat_ds.tasks.example import Example
from mat_ds.tasks.kinds.base import Kind

# Examples of the report; the file beside it has all.
SHOWN = 5


def attacked_rows(examples: Sequence[Example], limit: int, key: tuple[Part, ...]) -> list[int]:
    """The positions of the examples that are attacked, ascending: the same for every attack and model."""
    count = len(examples)
    return sorted(Random(seed_from(*key)).sample(range(count), min(limit, count)))


def column_of(options: TextAttackOptions, kind: Kind) -> int:
    """Position of the text that is changed among an example's texts."""
    return kind.columns.index(options.column) if options.column else len(kind.columns) - 1


def measure_text_attack(
    name: str, options: TextAttackOptions, victim: Victim, evaluator: Evaluator, examples: Sequence[Example], split: str,
    seed: int,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:  # fmt: skip
    """Attacks a split. Every rank must call it.

    Returns:
        What the report says, and a line for each attacked example.
    """
    rows = attacked_rows(examples, options.limit, (seed, "text attack", split))
    attack = text_attack(name)(options, victim, column_of(options, victim.kind))
    shared = attack.prepare([examples[row] for row in rows], (seed, name, split))
    own = {row: attack.attack(examples[row], (seed, name, split, row)) for row in evaluator.own(f"{split}, {name}", rows)}
    found = {row: one for part in from_all_ranks(own) for row, one in part.items()}
    if found.keys() != set(rows):
        raise RuntimeError(f"{len(found)} attacks on {len(rows)} examples")
    found = {row: found[row] for row in rows}
    lines, figures = list(_lines(attack, examples, found)), attack.figures(list(found.values()))
    digest = hashlib.sha256(repr([examples[row].content for row in rows]).encode()).hexdigest()
    return {
        **summary(list(found.values())),
        **figures,
        **shared,
        "examples_sha256": digest,
        "shown": _examples_of(lines),
    }, lines


def summary(found: Sequence[Attacked]) -> dict[str, Any]:
    """The figures of an attack.

    `clean` and `robust_accuracy`: share of right answers before and after; `broken`: how many the attack made wrong;
    `flip_rate`: their share of those that were right, the attack's success rate, None if none was right; `queries`: mean for
    each example that was searched, and `queries_of_broken` for each that was broken.
    """
    right, broken = [one for one in found if one.before.right], [one for one in found if one.broken]
    return {
        "examples": len(found),
        "clean": len(right) / len(found),
        "robust_accuracy": (len(right) - len(broken)) / len(found),
        "broken": len(broken),
        "flip_rate": len(broken) / len(right) if right else None,
        "queries": sum(one.queries for one in right) / len(right) if right else None,
        "queries_of_broken": sum(one.queries for one in broken) / len(broken) if broken else None,
    }


def _lines(attack: TextAttack, examples: Sequence[Example], found: dict[int, Attacked]) -> Iterator[dict[str, Any]]:
    kind = attack.victim.kind
    for row, one in found.items():
        yield {
            "row": row, "label": kind.gold_of(examples[row]), "right_before": one.before.right, "right_after": one.after.right,
            "loss_before": one.before.loss, "loss_after": one.after.loss, "queries": one.queries,
            "texts": list(examples[row].texts), "changed": list(one.example.texts), **one.notes,
        }  # fmt: skip


def _examples_of(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    broken = [line for line in lines if line["right_before"] and not line["right_after"]]
    told = ("right_before", "right_after", "loss_before", "loss_after")
    return [{key: value for key, value in line.items() if key not in told} for line in broken[:SHOWN]]
