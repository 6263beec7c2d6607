"""The figure of docs/results.md: every run's NLL, and each hypothesis's gain with its interval, by three endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from benchmarks.evidence.analysis import ENDPOINTS, finals, hypotheses
from benchmarks.evidence.arms import ARMS
from benchmarks.evidence.design import MARGIN
from benchmarks.evidence.records import Record
from benchmarks.evidence.tasks import TASKS


def draw_evidence(records: Sequence[Record], file: Path) -> None:
    """Draws a row for each task that has runs, and writes it as PNG."""
    from matplotlib.figure import Figure

    tasks = [task for task in TASKS if any(finals(records, task, arm) for arm in ARMS)]
    rows = [max(8, len(TASKS[task].arms)) for task in tasks]
    figure = Figure(figsize=(10.5, 0.3 * sum(rows) + 0.6 * len(tasks)), layout="constrained")
    panels = figure.subplots(len(tasks), 2, squeeze=False, gridspec_kw={"height_ratios": rows})
    for (by_arm, by_hypothesis), task in zip(panels, tasks, strict=True):
        values = {arm: [run["endpoints"]["nll"] for run in finals(records, task, arm).values()] for arm in ARMS}
        arms = sorted((arm for arm in ARMS if values[arm]), key=lambda arm: mean(values[arm]), reverse=True)
        for row, arm in enumerate(arms):
            by_arm.plot(values[arm], [row] * len(values[arm]), ".", color="C3" if arm.startswith("mat_") else "C0", alpha=0.5)
            by_arm.plot([mean(values[arm])] * 2, [row - 0.35, row + 0.35], "k")
        by_arm.set_yticks(range(len(arms)), arms)
        by_arm.set(xlabel="dev NLL, hundredths of a nat (less is better)", title=f"{task}: a dot for each seed")
        tests = [
            test for test in hypotheses(records, ["nll", "auc", "attack"]) if test.task == task and test.found.low is not None
        ]
        for row, test in enumerate(reversed(tests)):
            by_hypothesis.plot([test.found.low, test.found.high], [row, row], color="C0")
            by_hypothesis.plot(test.found.mean, row, "o", color="C0")
        labels = [f"{test.hypothesis}: {test.title}, {ENDPOINTS[test.endpoint][0]}" for test in reversed(tests)]
        by_hypothesis.set_yticks(range(len(tests)), labels)
        by_hypothesis.axvspan(-MARGIN, MARGIN, color="0.9")
        by_hypothesis.axvline(0, color="0.5")
        by_hypothesis.set(xlabel="gain in points, 95% interval", title=f"{task}: hypotheses")
    figure.savefig(file, dpi=110)
