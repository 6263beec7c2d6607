"""Which runs are the seeds of one experiment, and what to call it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from mat_ds.config.dotted import flatten
from mat_ds.config.load import merge
from mat_ds.config.schema import RunConfig
from mat_ds.reports.runs import RunData
from mat_ds.resume import FREE

# In the order of tables.
METHOD_NAMES = {
    "vanilla": "vanilla", "pgd": "PGD", "freeat": "FreeAT", "freelb": "FreeLB", "smart": "SMART", "alum": "ALUM",
    "salt": "SALT", "r3f": "R3F", "r4f": "R4F", "rdrop": "R-Drop", "mat": "MAT",
}  # fmt: skip
SYMBOLS = {
    "method.theta_steps": "Kθ", "method.delta_steps": "Kδ", "method.lam": "λ", "method.beta_s": "βs", "method.beta_p": "βp",
    "method.delta_lr": "γδ", "method.delta_noise": "εδ", "method.theta_noise": "εθ", "method.alpha": "α", "optimizer.lr": "lr",
    "model.name": "model",
}  # fmt: skip
# What makes no other experiment: where things lie, how a batch is cut, how often it is saved and watched.
IRRELEVANT = FREE - {"model.name", "train.epochs", "train.max_steps", "train.eval_per_epoch"} | {"seed", "method.on_invisible"}
Options = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seed.

    Attributes:
        task, method: the name of the task, the key of the method.
        label: the method, and what distinguishes it from other groups on this task.
        options: what its runs share, by dotted key.
        runs: at least one, by seed.
    """

    task: str
    method: str
    label: str
    options: Options
    runs: tuple[RunData, ...]

    @cached_property
    def counted(self) -> list[RunData]:
        """The runs that means are of: the finished ones, or where none is, all."""
        return [run for run in self.runs if run.finished] or list(self.runs)

    @property
    def finished(self) -> bool:
        return all(run.finished for run in self.counted)

    def values(self, kind: str, name: str = "score") -> list[float]:
        """One score of each counted run that has it.

        Args:
            kind: `last`, `best` or `median`.
            name: `score`, or `<split>/<metric>`.
        """
        found = (run.scores.get(kind, {}).get(name) for run in self.counted)
        return [value for value in found if value is not None]

    def mean(self, kind: str, name: str = "score") -> float | None:
        """The mean over the seeds; None where no run has the score."""
        return mean_of(self.values(kind, name))

    @property
    def metrics(self) -> list[str]:
        """`<split>/<metric>` of all that was evaluated."""
        return list(dict.fromkeys(name for run in self.counted for name in run.scores.get("median", {}) if name != "score"))


def mean_of(values: Iterable[float | None]) -> float | None:
    """The mean of what there is; None of nothing."""
    found = [value for value in values if value is not None]
    return mean(found) if found else None


def deviation(values: Sequence[float]) -> float | None:
    """The standard deviation of a sample; None of fewer than two."""
    return stdev(values) if len(values) > 1 else None


def group_runs(runs: Sequence[RunData]) -> list[Group]:
    """The groups of runs, by task and then by method, and by what distinguishes them."""
    found: dict[tuple[str, str, str], list[RunData]] = {}
    for run in runs:
        key = (run.task, run.method, json.dumps(options_of(run), sort_keys=True))
        found.setdefault(key, []).append(run)
    groups = [
        Group(task, method, "", json.loads(options), tuple(sorted(members, key=lambda run: (run.seed, run.name))))
        for (task, method, options), members in found.items()
    ]
    order = list(METHOD_NAMES)
    labelled = []
    for group in groups:
        said = {key: value for key, value in differences(group, groups).items() if value != unsaid(key, group, groups)}
        rank = order.index(group.method) if group.method in order else len(order)
        place = (group.task, rank, [(key, _sortable(value)) for key, value in differences(group, groups).items()])
        labelled.append((place, Group(group.task, group.method, _label(group.method, said), group.options, group.runs)))
    return [group for _, group in sorted(labelled, key=lambda entry: entry[0])]


def options_of(run: RunData) -> Options:
    """What makes the run the experiment it is, by dotted key; data count by their contents, not by where they lie."""
    flat = flatten(merge(RunConfig().model_dump(mode="json", exclude={"method"}), run.config))
    options = {key: value for key, value in flat.items() if key not in IRRELEVANT and not key.startswith("tracking.")}
    ds_config = run.environment.get("deepspeed_config", {})
    half = [name for name in ("fp16", "bf16") if ds_config.get(name, {}).get("enabled")]
    data = run.environment.get("data_sha256")
    return options | {"task": run.task, "precision": half[0] if half else "fp32", "data": str(data)[:8]}


def differences(group: Group, groups: Sequence[Group]) -> Options:
    """The options of a group in which others on its task differ; those of a method are compared within it."""
    return {
        key: value
        for key, value in group.options.items()
        if any(other.options.get(key) != value for other in _comparable(key, group, groups))
    }


def unsaid(key: str, group: Group, groups: Sequence[Group]) -> Any:
    """The value that more than half of the groups have, which labels need not say; None where there is none."""
    counts = Counter(json.dumps(other.options.get(key)) for other in _comparable(key, group, groups))
    value, count = counts.most_common(1)[0]
    return json.loads(value) if 2 * count > counts.total() else None


def _comparable(key: str, group: Group, groups: Sequence[Group]) -> list[Group]:
    own = [other for other in groups if other.task == group.task]
    return [other for other in own if other.method == group.method] if key.startswith("method.") else own


def unsaid_options(groups: Sequence[Group]) -> dict[str, str]:
    """Method -> what its labels leave out, in words; for a note beside them."""
    found: dict[str, dict[str, None]] = {}
    for group in groups:
        for key in differences(group, groups):
            if key.startswith("method.") and (value := unsaid(key, group, groups)) is not None:
                found.setdefault(METHOD_NAMES.get(group.method, group.method), {})[say(key, value)] = None
    return {method: ", ".join(parts) for method, parts in found.items()}


def _label(method: str, said: Options) -> str:
    return " ".join([METHOD_NAMES.get(method, method), *(say(key, value) for key, value in said.items())])


def say(key: str, value: Any) -> str:
    """An option in a label."""
    name = SYMBOLS.get(key, key.rpartition(".")[2])
    if key == "model.name":
        value = Path(str(value)).name
    return f"{name}={shown(value)}"


def shown(value: Any) -> str:
    """An option's value as briefly as it can be told."""
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return value if isinstance(value, str) else json.dumps(value)


def _sortable(value: Any) -> tuple[bool, float, str]:
    number = isinstance(value, (int, float))
    return (not number, float(value) if number else 0.0, str(value))
