"""What `mat-ds evaluate` checked beside attacks: signs of gradient masking, certificates, tests of behaviour, and the gate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mat_ds.reports.attacks import HEAD, dev_splits
from mat_ds.reports.groups import Group, mean_of, one_a_seed
from mat_ds.reports.table import Row, Table, text

# Where it was measured (a split, all of them, or the model) and what -> what each seed's newest evaluation found.
Checks = dict[tuple[str, str], list[Any]]


def checks_table(groups: Sequence[Group]) -> Table:
    """A row for each experiment and check."""
    rows: list[Row] = []
    for group in groups:
        found: Checks = {}
        for run in one_a_seed(run for run in group.runs if run.robustness):
            newest = {place: value for report in run.robustness for place, value in _findings(report)}
            for place, value in newest.items():
                found.setdefault(place, []).append(value)
        for (split, check), values in found.items():
            rows.append({"label": group.label, "task": group.task, "split": split, "check": check, "found": _in_words(values)})
    note = (
        "Shares are in percent. A certificate is of the classifier smoothed by noise on its embeddings. Means over the seeds, "
        "of each the newest evaluation that has the check."
    )
    columns = (*HEAD, text("check", "check"), text("found", "found"))
    return Table("checks", "Gradient masking, certificates, behaviour, gate", columns, rows, note)


def _findings(report: dict[str, Any]) -> Iterator[tuple[tuple[str, str], Any]]:
    """Yields the place of each check of a report, and what it found: signs in words, a share, or whether something is met."""
    for split, found in dev_splits(report).items():
        if masking := found.get("masking"):
            yield (split, "signs of gradient masking"), masking["signs"]
        if smoothing := found.get("smoothing"):
            for point in smoothing["points"]:
                name = f"certified accuracy, sigma {smoothing['sigma']:g}, L2 radius {point['radius']:.3g}"
                yield (split, name), point["certified_accuracy"]
    for test in (report.get("invariance") or {}).get("tests", ()):
        yield ("model", f"failures of the test {test['name']}"), test["failure_rate"]
    if gate := report.get("gate"):
        for one in gate["required"]:
            yield ("all", f"gate: {one['condition']}"), bool(one["met"])


def _in_words(values: Sequence[Any]) -> str:
    if isinstance(values[0], bool):
        return (
            ("met" if all(values) else "not met") if len(set(values)) == 1 else f"met by {sum(values)} of {len(values)} seeds"
        )
    if isinstance(values[0], list):
        return "; ".join(dict.fromkeys(sign for signs in values for sign in signs)) or "none"
    return f"{100 * (mean_of(values) or 0.0):.1f}"
