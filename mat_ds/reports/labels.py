"""Groups runs into experiments, and labels them: the method, and what distinguishes it from others."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import PurePath
from typing import Any

from mat_ds.config.dotted import flatten
from mat_ds.methods import METHODS
from mat_ds.reports.groups import Group, Options
from mat_ds.reports.runs import RunData
from mat_ds.runs.load import forget_gone, merge_options
from mat_ds.runs.options import RunConfig
from mat_ds.runs.resume import FREE
from mat_ds.tracking.content import precision_of

# Options that do not distinguish experiments: paths, micro-batch sizes, how often it saves and measures.
LENGTH = {"train.epochs", "train.max_steps", "train.budget", "train.eval_per_epoch"}
IRRELEVANT = FREE - {"model.name", *LENGTH} | {"seed", "method.on_invisible"}
# In the order of tables.
METHOD_NAMES = {
    "vanilla": "vanilla", "pgd": "PGD", "freeat": "FreeAT", "freelb": "FreeLB", "yopo": "YOPO", "smart": "SMART",
    "alum": "ALUM", "salt": "SALT", "neftune": "NEFTune", "sam": "SAM", "awp": "AWP", "r3f": "R3F", "r4f": "R4F",
    "rdrop": "R-Drop", "mat": "MAT",
}  # fmt: skip
SYMBOLS = {
    "method.theta_steps": "Kθ", "method.delta_steps": "Kδ", "method.lam": "λ", "method.beta_s": "βs", "method.beta_p": "βp",
    "method.delta_lr": "γδ", "method.delta_noise": "εδ", "method.theta_noise": "εθ", "method.alpha": "α", "optimizer.lr": "lr",
    "model.name": "model", "optimizer.name": "optimizer", "model.dropout": "model.dropout", "model.lora.r": "lora.r",
    "model.lora.alpha": "lora.alpha", "model.lora.dropout": "lora.dropout",
}  # fmt: skip


def group_runs(runs: Sequence[RunData]) -> list[Group]:
    """Groups runs by task, method and distinguishing options, sorted in this order."""
    found: dict[tuple[str, str, str], list[RunData]] = {}
    for run in runs:
        key = (run.task, run.method, json.dumps(options_of(run), sort_keys=True))
        found.setdefault(key, []).append(run)
    groups = [
        Group(task, method, "", json.loads(options), tuple(sorted(members, key=lambda run: (run.seed, run.name))))
        for (task, method, options), members in found.items()
    ]
    order = list(METHOD_NAMES)

    def place(group: Group) -> tuple[Any, ...]:
        rank = order.index(group.method) if group.method in order else len(order)
        return (group.task, rank, [(key, _sortable(value)) for key, value in distinguishing_options(group, groups).items()])

    ordered = sorted(groups, key=place)
    return [replace(group, label=label) for group, label in zip(ordered, labels_of(ordered), strict=True)]


def options_of(run: RunData) -> Options:
    """The options that define a run's experiment, by dotted key; data is identified by its contents, not its path."""
    merged = merge_options(RunConfig().model_dump(mode="json", exclude={"method"}), run.config)
    forget_gone(merged)
    flat = flatten(merged)
    options = {key: value for key, value in flat.items() if key not in IRRELEVANT and not key.startswith("tracking.")}
    precision = run.environment.get("precision") or precision_of(run.environment) or "unknown"
    data = run.environment.get("data_sha256")
    return options | {"task": run.task, "precision": precision, "data": str(data)[:8]}


def _sortable(value: Any) -> tuple[bool, float, str]:
    number = isinstance(value, (int, float))
    return (not number, float(value) if number else 0.0, str(value))


def name_in_papers(method: str) -> str:
    """A method's name as written in papers."""
    return METHOD_NAMES.get(method, method)


def labels_of(groups: Sequence[Group]) -> list[str]:
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


def distinguishing_options(group: Group, groups: Sequence[Group]) -> Options:
    """The options in which a group differs from others of its task; method options are compared within the method."""
    return {
        key: value
        for key, value in group.options.items()
        if any(other.options.get(key) != value for other in _comparable(key, group, groups))
    }


def unsaid(key: str, group: Group, groups: Sequence[Group]) -> Any:
    """The value that more than half of the groups share, which labels can omit; None if there is none."""
    counts = Counter(json.dumps(other.options.get(key)) for other in _comparable(key, group, groups))
    value, count = counts.most_common(1)[0]
    return json.loads(value) if 2 * count > counts.total() else None


def _comparable(key: str, group: Group, groups: Sequence[Group]) -> list[Group]:
    own = [other for other in groups if other.task == group.task]
    return [other for other in own if other.method == group.method] if key.startswith("method.") else own


def unsaid_options(groups: Sequence[Group]) -> Iterator[str]:
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


def _part(key: str, value: Any, group: Group, groups: Sequence[Group]) -> str:
    """An option as part of a label."""
    if key == "model.name":
        value = _distinct_end(str(value), {str(other.options.get(key)) for other in groups if other.task == group.task})
    others = [other.options.get(key) for other in _comparable(key, group, groups)]
    return f"{SYMBOLS.get(key, key.rpartition('.')[2])}={shown(value, others)}"


def _distinct_end(name: str, names: set[str]) -> str:
    """As much of the end of a path as is unique: prepared models are all named `model`."""
    parts = PurePath(name).parts
    others = [PurePath(other).parts for other in names - {name}]
    number = next((n for n in range(1, len(parts)) if all(parts[-n:] != other[-n:] for other in others)), len(parts))
    return str(PurePath(*parts[-number:])) if parts else name


def exactly(number: float) -> str:
    """A number with all its digits, and without `.0`."""
    return f"{number:.15g}" if float(f"{number:.15g}") == number else repr(number)


def shown(value: Any, others: Iterable[Any] = ()) -> str:
    """An option's value as a person would write it: of a number with more than four digits, as a sampler draws, only two, or as
    many as distinguish it from `others`."""
    if not isinstance(value, float):
        return value if isinstance(value, str) else json.dumps(value)
    if abs(value) < 1e6 and value == int(value):
        return str(int(value))
    digits = 4 if float(f"{value:.4g}") == value else 2
    different = {float(other) for other in others if isinstance(other, (int, float))} - {value}
    while digits < 17 and any(f"{value:.{digits}g}" == f"{other:.{digits}g}" for other in different):
        digits += 1
    return re.sub(r"e(-?)\+?0*", r"e\1", f"{value:.{digits}g}")
