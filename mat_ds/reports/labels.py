"""Labels of experiments: the method, and what distinguishes it from others."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import PurePath
from typing import Any, Protocol

from mat_ds.config.dotted import flatten
from mat_ds.methods import METHODS
from mat_ds.runs.options import RunConfig

Options = dict[str, Any]


class Experiment(Protocol):
    """What a label is made from: `options` by dotted key."""

    @property
    def task(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def options(self) -> Options: ...


# In the order of tables.
METHOD_NAMES = {
    "vanilla": "vanilla", "pgd": "PGD", "freeat": "FreeAT", "freelb": "FreeLB", "smart": "SMART", "alum": "ALUM",
    "salt": "SALT", "r3f": "R3F", "r4f": "R4F", "rdrop": "R-Drop", "mat": "MAT",
}  # fmt: skip
SYMBOLS = {
    "method.theta_steps": "Kθ", "method.delta_steps": "Kδ", "method.lam": "λ", "method.beta_s": "βs", "method.beta_p": "βp",
    "method.delta_lr": "γδ", "method.delta_noise": "εδ", "method.theta_noise": "εθ", "method.alpha": "α", "optimizer.lr": "lr",
    "model.name": "model", "optimizer.name": "optimizer", "model.dropout": "model.dropout", "model.lora.r": "lora.r",
    "model.lora.alpha": "lora.alpha", "model.lora.dropout": "lora.dropout",
}  # fmt: skip


def name_in_papers(method: str) -> str:
    """A method's name as written in papers."""
    return METHOD_NAMES.get(method, method)


def labels_of(groups: Sequence[Experiment]) -> list[str]:
    """A label for each group, unique within its task."""
    labels: list[str] = []
    taken: Counter[tuple[str, str]] = Counter()
    for group in groups:
        said = {
            key: value for key, value in distinguishing_options(group, groups).items() if value != unsaid(key, group, groups)
        }
        label = " ".join([name_in_papers(group.method), *(_part(key, value, group, groups) for key, value in said.items())])
        taken[group.task, label] += 1
        number = taken[group.task, label]
        labels.append(f"{label} ({number})" if number > 1 else label)
    return labels


def distinguishing_options(group: Experiment, groups: Sequence[Experiment]) -> Options:
    """The options in which a group differs from others of its task; method options are compared within the method."""
    return {
        key: value
        for key, value in group.options.items()
        if any(other.options.get(key) != value for other in _comparable(key, group, groups))
    }


def unsaid(key: str, group: Experiment, groups: Sequence[Experiment]) -> Any:
    """The value that more than half of the groups share, which labels can omit; None if there is none."""
    counts = Counter(json.dumps(other.options.get(key)) for other in _comparable(key, group, groups))
    value, count = counts.most_common(1)[0]
    return json.loads(value) if 2 * count > counts.total() else None


def _comparable(key: str, group: Experiment, groups: Sequence[Experiment]) -> list[Experiment]:
    own = [other for other in groups if other.task == group.task]
    return [other for other in own if other.method == group.method] if key.startswith("method.") else own


def unsaid_options(groups: Sequence[Experiment]) -> Iterator[str]:
    """Yields notes about what labels omit: shared options that are not defaults, or that some label contradicts; for all
    experiments and per method."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for group in groups:
        told = distinguishing_options(group, groups)
        for key in group.options:
            value = unsaid(key, group, groups)
            usual = _defaults(group.method).get(key, value)
            if value is not None and (key in told or value != usual) and key not in ("task", "method.name"):
                method = group.method if key.startswith("method.") else ""
                found.setdefault((method, group.task), {})[_part(key, value, group, groups)] = None
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (method, task), parts in found.items():
        alike.setdefault((method, tuple(parts)), []).append(task)
    for (method, words), tasks in sorted(alike.items(), key=lambda entry: bool(entry[0][0])):
        everywhere = {group.task for group in groups if method in ("", group.method)} <= set(tasks)
        where = "" if everywhere else f" on {', '.join(tasks)}"
        name = name_in_papers(method) if method else "All experiments"
        yield f"{name}{where}, unless a label says otherwise: {', '.join(words)}."


@cache
def _defaults(method: str) -> dict[str, Any]:
    """All default options, by dotted key."""
    flat = flatten(RunConfig().model_dump(mode="json", exclude={"method"})) | {"precision": "fp32"}
    if method in METHODS:
        flat |= flatten({"method": METHODS[method].Settings(name=method).model_dump(mode="json")})
    return flat


def _part(key: str, value: Any, group: Experiment, groups: Sequence[Experiment]) -> str:
    """An option as part of a label."""
    if key == "model.name":
        value = _distinct_end(str(value), {str(other.options.get(key)) for other in groups if other.task == group.task})
    return f"{SYMBOLS.get(key, key.rpartition('.')[2])}={shown(value)}"


def _distinct_end(name: str, names: set[str]) -> str:
    """As much of the end of a path as is unique: prepared models are all named `model`."""
    parts = PurePath(name).parts
    others = [PurePath(other).parts for other in names - {name}]
    number = next((n for n in range(1, len(parts)) if all(parts[-n:] != other[-n:] for other in others)), len(parts))
    return str(PurePath(*parts[-number:])) if parts else name


def shown(value: Any) -> str:
    """An option's value, as short as possible."""
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return value if isinstance(value, str) else json.dumps(value)
