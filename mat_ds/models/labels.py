"""Compares a model's labels with the task's. If their order differs, predictions would be assigned to wrong labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mat_ds.tasks.spec import TaskSpec


@dataclass(frozen=True)
class Match:
    """How a model's labels compare with a task's.

    Attributes:
        names: the model's labels in order of its outputs; empty if it has no label names.
        order: for each label of the task its number in the model; None if the labels differ.
    """

    names: tuple[str, ...]
    order: tuple[int, ...] | None

    @property
    def same(self) -> bool:
        """Whether output i of the model is label i of the task, as far as the model names its labels."""
        return not self.names or (self.order is not None and list(self.order) == sorted(self.order))


def match_labels(config: Any, spec: TaskSpec) -> Match:
    """Compares the labels of a classifier with those of a task with as many; spellings in the task's `label_map` count too.

    Args:
        config: the model's transformers configuration.
    """
    names = _label_names(config)
    if not spec.labels or not names:
        return Match((), None)
    exact = {label: i for i, label in enumerate(names)}
    if len(exact) == len(names) and set(spec.labels) == set(exact):
        return Match(names, tuple(exact[label] for label in spec.labels))
    wanted = [_normalised(label) for label in spec.labels]
    spelt = {_normalised(other): _normalised(label) for other, label in spec.label_map.items()}
    found = [_normalised(name) if _normalised(name) in wanted else spelt.get(_normalised(name), "") for name in names]
    if len(set(found)) < len(found) or sorted(found) != sorted(wanted):
        return Match(names, None)
    return Match(names, tuple(found.index(label) for label in wanted))


def _label_names(config: Any) -> tuple[str, ...]:
    """The labels of a configuration in order of outputs; empty if they are just numbers."""
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


def _normalised(label: str) -> str:
    return " ".join(label.casefold().replace("_", " ").replace("-", " ").split())
