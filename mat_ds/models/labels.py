"""Whether a model's classes are the task's, and in which order: a model that numbers them otherwise answers the opposite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mat_ds.tasks.spec import TaskSpec


@dataclass(frozen=True)
class Match:
    """How a model's labels compare with a task's.

    Attributes:
        names: the model's labels, in the order of its outputs; none of one that does not name them.
        order: the task's labels as numbers among the model's; None if they are others.
    """

    names: tuple[str, ...]
    order: tuple[int, ...] | None

    @property
    def same(self) -> bool:
        """Whether each output means what the task's label of its number means, as far as the model says."""
        return not self.names or (self.order is not None and list(self.order) == sorted(self.order))


def match_labels(config: Any, spec: TaskSpec) -> Match:
    """Compares the labels of a classifier with those of a task of as many; spellings that the task knows count as its own.

    Args:
        config: transformers' configuration of the model.
    """
    names = _names(config)
    if not spec.labels or not names:
        return Match((), None)
    exact = {label: i for i, label in enumerate(names)}
    if len(exact) == len(names) and set(spec.labels) == set(exact):
        return Match(names, tuple(exact[label] for label in spec.labels))
    wanted = [_plain(label) for label in spec.labels]
    spelt = {_plain(other): _plain(label) for other, label in spec.label_map.items()}
    found = [_plain(name) if _plain(name) in wanted else spelt.get(_plain(name), "") for name in names]
    if len(set(found)) < len(found) or sorted(found) != sorted(wanted):
        return Match(names, None)
    return Match(names, tuple(found.index(label) for label in wanted))


def _names(config: Any) -> tuple[str, ...]:
    """The labels of a configuration in the order of its outputs; none if they are no more than numbers."""
    count = config.num_labels
    for names in (config.id2label, _turned(config.label2id)):
        named = tuple(str(names.get(i, f"LABEL_{i}")) for i in range(count))
        if not any(_unnamed(named, label) for label in ("LABEL_{}", "{}", "label{}", "class_{}")):
            return named
    return ()


def _turned(numbers: Mapping[str, int] | None) -> dict[int, str]:
    return {int(i): name for name, i in (numbers or {}).items()}


def _unnamed(names: Sequence[str], label: str) -> bool:
    return list(names) == [label.format(i) for i in range(len(names))]


def _plain(label: str) -> str:
    return " ".join(label.casefold().replace("_", " ").replace("-", " ").split())
