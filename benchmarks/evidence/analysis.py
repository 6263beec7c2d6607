"""What the records say: a row for each arm, and the test of each hypothesis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Any

import numpy as np

from benchmarks.evidence.arms import ARMS, RIVALS
from benchmarks.evidence.design import HYPOTHESES, LEAST_AUC, MARGIN
from benchmarks.evidence.records import Record, chosen
from benchmarks.evidence.tasks import TASKS
from mat_ds.reports.paired import FEWEST, LEVEL, Paired, holm, paired

# Name -> title, and whether less is better. The first two decide, the others are beside them. A regression has NLL and AUC too
# (`benchmarks.evidence.measured`), and loses correlation under noise, but has not the others.
ENDPOINTS = {
    "nll": ("NLL", True), "auc": ("AUC", False), "accuracy": ("accuracy", False), "mcc": ("Matthews", False),
    "ece": ("ECE", True), "noise": ("lost under noise", True), "attack": ("turned by attack", True),
}  # fmt: skip
BY_EXAMPLE = {"nll": lambda nll: 100 * nll, "accuracy": lambda nll: 100.0 * (nll < np.log(2))}


@dataclass(frozen=True)
class Test:
    """A hypothesis on a task, by an endpoint.

    Attributes:
        counts: whether vanilla's AUC lets the task count; None: vanilla has not been run.
        found: of the differences, in points; positive where the hypothesis is right, for endpoints of which less is better too.
        corrected: p, by Holm over hypotheses and tasks.
    """

    hypothesis: str
    title: str
    task: str
    endpoint: str
    counts: bool | None
    found: Paired
    corrected: float | None = None

    @property
    def verdict(self) -> str:
        if not self.counts:
            return "vanilla has not been run" if self.counts is None else "does not count: vanilla is too weak"
        if self.found.p is None or self.corrected is None:
            return "too few seeds"
        words = [("yes" if self.found.mean > 0 else "the opposite")] if self.corrected < LEVEL else []
        if self.found.equivalence is not None and self.found.equivalence < LEVEL:
            words.append(f"less than {MARGIN:g} point either way")
        return ", but ".join(words) or "undecided"


def finals(records: Sequence[Record], task: str, arm: str) -> dict[int, Record]:
    """The runs of an arm by seed, without those of the tuning."""
    own = [one for one in records if (one["task"], one["arm"]) == (task, arm) and one["trial"] is None]
    return {one["seed"]: one for one in sorted(own, key=lambda one: one["seed"])}


def best_rival(records: Sequence[Record], task: str) -> str | None:
    """The rival with the least NLL in its tuning; None before all have been tuned."""
    tuned = {arm: chosen(records, task, arm) for arm in RIVALS if arm in TASKS[task].arms}
    found = {arm: best[1] for arm, best in tuned.items() if best}
    return min(found, key=lambda arm: found[arm]) if len(found) == len(tuned) and found else None


def differences(records: Sequence[Record], task: str, weights: Mapping[str, float], endpoint: str) -> np.ndarray:
    """The weighted sum of arms for each seed that all have: (seeds,), or (seeds, examples); gains are positive.

    There are no rows of an endpoint that the task does not have.
    """
    measured = [one for one in records if endpoint in one["endpoints"]]
    arms = {arm: finals(measured, task, arm) for arm in weights}
    seeds = sorted(set.intersection(*(set(own) for own in arms.values())))
    sign = -1.0 if ENDPOINTS[endpoint][1] else 1.0

    def of(record: Record) -> np.ndarray:
        if endpoint in BY_EXAMPLE:
            return np.asarray(BY_EXAMPLE[endpoint](np.array(record["nll_by_example"])))
        return np.array([record["endpoints"][endpoint]])

    rows = [sum(sign * weight * of(arms[arm][seed]) for arm, weight in weights.items()) for seed in seeds]
    return np.array(rows, float) if rows else np.empty((0, 1))


def hypotheses(records: Sequence[Record], endpoints: Sequence[str]) -> list[Test]:
    """Tests every hypothesis on every task that there are runs for.

    Raises:
        ValueError: if runs of a task do not belong together.
    """
    check_alike(records)
    return [test for endpoint in endpoints for test in _corrected(list(_tests(records, endpoint)))]


def check_alike(records: Sequence[Record]) -> None:
    """Raises `ValueError` if the runs of a task and seed had not the same dev set, radius and model to start from."""
    seen: dict[tuple[Any, ...], tuple[Any, str]] = {}
    for record in records:
        for name in ("dev_sha256", "radius", "model_sha256"):
            if (value := record.get(name)) is None:  # of records that are older than this
                continue
            whose = (record["task"], record["seed"], name)
            known, other = seen.setdefault(whose, (value, record["name"]))
            if known != value:
                raise ValueError(f"{record['name']} and {other} differ in {name}, {value} and {known}: make one of them again")


def _tests(records: Sequence[Record], endpoint: str) -> Iterator[Test]:
    for task in TASKS:
        own = [one for one in records if one["task"] == task]
        vanilla = [one["endpoints"]["auc"] for one in finals(own, task, "vanilla").values()]
        rival = best_rival(own, task)
        for name, (title, weights) in HYPOTHESES.items():
            if "rival" in weights and rival is None:
                continue
            named = {rival if arm == "rival" else arm: weight for arm, weight in weights.items()}
            found = differences(own, task, {str(arm): weight for arm, weight in named.items()}, endpoint)
            if len(found):
                told = title.replace("best rival", str(rival))
                counts = bool(mean(vanilla) > LEAST_AUC) if vanilla else None
                yield Test(name, told, task, endpoint, counts, paired(found, MARGIN))


def _corrected(tests: list[Test]) -> list[Test]:
    counted = [test.found.p for test in tests if test.counts and test.found.p is not None]
    values = iter(holm(counted))
    return [replace(test, corrected=next(values)) if test.counts and test.found.p is not None else test for test in tests]


def tables(records: Sequence[Record]) -> Iterator[str]:
    """Both tables as lines of Markdown."""
    for task in TASKS:
        own = {arm: runs for arm in ARMS if (runs := finals(records, task, arm))}
        if own:
            yield from ("", f"| {task} | seeds | lr | updates | {' | '.join(title for title, _ in ENDPOINTS.values())} | s |")
            yield "|---" * (5 + len(ENDPOINTS)) + "|"
            yield from (_arm(records, task, arm, list(runs.values())) for arm, runs in own.items())
    tests = hypotheses(records, list(ENDPOINTS))
    if tests:
        yield from (
            "",
            "| hypothesis | task | by | seeds | gain in points | p | p, Holm | p, 1 or more | seeds for 1 point | says |",
            "|---" * 10 + "|",
        )
        yield from map(_line, tests)


def _arm(records: Sequence[Record], task: str, arm: str, runs: Sequence[Record]) -> str:
    cells = [_spread([one["endpoints"][name] for one in runs if name in one["endpoints"]]) for name in ENDPOINTS]
    best = chosen(records, task, arm)
    lr = f"{TASKS[task].lr * best[0].multiple:g}{', weaker' * best[0].weak}" if best else "-"
    updates = runs[0]["endpoints"]["steps"] * (3 if arm.startswith("mat_") else 1)
    seconds = mean(one["endpoints"]["seconds"] for one in runs)
    return f"| {arm} | {len(runs)} | {lr} | {updates} | {' | '.join(cells)} | {seconds:.0f} |"


def _spread(values: Sequence[float]) -> str:
    """Mean and, of three values or more, standard deviation in brackets; two values as they are."""
    if len(values) < FEWEST:
        return ", ".join(f"{value:.2f}" for value in values) or "-"
    return f"{mean(values):.2f} ({stdev(values):.2f})"


def _line(test: Test) -> str:
    found, title = test.found, ENDPOINTS[test.endpoint][0]
    gain = ", ".join(f"{value:+.2f}" for value in found.differences)
    if found.low is not None and found.high is not None:
        gain = f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"
    ps = ["-" if value is None else f"{value:.4f}" for value in (found.p, test.corrected, found.equivalence)]
    needed = "-" if found.needed is None else str(found.needed or "never")
    cells = [f"{test.hypothesis}: {test.title}", test.task, title, str(len(found.differences)), gain, *ps, needed, test.verdict]
    return f"| {' | '.join(cells)} |"
