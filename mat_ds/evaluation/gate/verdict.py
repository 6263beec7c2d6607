"""Whether a report meets conditions, with the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mat_ds.evaluation.gate.conditions import Condition
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.spec import TaskSpec

# Numbers by what they measure and split, as `numbers_required` finds them.
Numbers = Mapping[str, Mapping[str, float | None]]
# Stands for the split of a number that is not of one.
MODEL = "model"


def gated_splits(spec: TaskSpec, splits: Sequence[str]) -> list[str]:
    """The splits on which conditions must hold: the dev splits among those measured, or all if none is."""
    return [split for split in splits if split in spec.dev] or list(splits)


def numbers_required(
    conditions: Sequence[Condition], spec: TaskSpec, report: Mapping[str, Any]
) -> dict[str, dict[str, float | None]]:
    """What the conditions are about, by its name and split, or `MODEL` if it is not of a split.

    Args:
        report: what was measured.
    """
    kind, splits = kind_of(spec), report["splits"]
    chosen = {split: splits[split] for split in gated_splits(spec, list(splits))}
    return {
        one.subject: {
            where: one.place.numbers(measured, kind).get(one.quantity)
            for where, measured in ({MODEL: report} if one.place.of_model else chosen).items()
        }
        for one in conditions
    }


@dataclass(frozen=True)
class Gate:
    """What a model must reach.

    Attributes:
        conditions: on its numbers.
        champion: the same numbers of the model that it would replace; None if there is none.
    """

    conditions: Sequence[Condition]
    champion: Numbers | None = None

    def verdict(self, spec: TaskSpec, report: Mapping[str, Any]) -> dict[str, Any]:
        """`gate` of a report: whether all is `met`, and for each condition what was `found` on each split.

        Args:
            report: what was measured.
        """
        found, other = numbers_required(self.conditions, spec, report), self.champion or {}
        required = []
        for one in self.conditions:
            here, there = found[one.subject], other.get(one.subject, {})
            compared = {} if self.champion is None else {"champion": dict(there)}
            met = all(one.met_by(value, there.get(split), self.champion is not None) for split, value in here.items())
            required.append({"condition": str(one), "found": here, **compared, "met": met})
        return {"met": all(entry["met"] for entry in required), "required": required}


def gate_rows(verdict: Mapping[str, Any]) -> list[list[Any]]:
    """The table of a verdict: a row of headings, and one for each condition and split."""
    compared = any("champion" in entry for entry in verdict["required"])
    rows = []
    for entry in verdict["required"]:
        for split, value in entry["found"].items():
            other = [entry["champion"].get(split)] if compared else []
            rows.append([entry["condition"], split, value, *other, "yes" if entry["met"] else "no"])
    return [["required", "split", "found", *(["champion"] if compared else []), "met"], *rows]


def gate_sentence(verdict: Mapping[str, Any]) -> str:
    """What came of it, in a line."""
    met, count = sum(entry["met"] for entry in verdict["required"]), len(verdict["required"])
    return f"gate: {'met' if verdict['met'] else 'NOT met'}, {met} of {count} conditions hold on every dev split"
