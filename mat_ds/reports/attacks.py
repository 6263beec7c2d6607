"""One table of all measurements by `mat-ds evaluate`."""

from __future__ import annotations

from collections.abc import Sequence

from mat_ds.reports.groups import Group
from mat_ds.reports.table import Column, Row, Table, text


def robustness_table(groups: Sequence[Group]) -> Table:
    """Every point of every evaluation; only written as CSV."""
    rows: list[Row] = []
    for group in groups:
        for run in group.runs:
            for number, report in enumerate(run.robustness, 1):
                base: Row = {"task": group.task, "label": group.label, "name": run.name, "evaluation": str(number)}
                attack = report["attack"]
                for split, found in report["splits"].items():
                    rows += [{**base, "split": split, "what": f"{attack['norm']} attack, {attack['steps']} steps",
                              "level": point["radius"], **point} for point in found["attack"]]  # fmt: skip
                    rows += [
                        {**base, "split": split, "what": kind, "level": point["rate"], **point}
                        for kind, points in found["noise"].items()
                        for point in points
                    ]
    said = ("task", "label", "name", "evaluation", "split", "what")
    measured = dict.fromkeys(key for row in rows for key in row if key not in (*said, "radius", "rate"))
    columns = (*(text(key, key) for key in said), *(Column(key, (key,)) for key in measured))
    return Table("robustness", "Robustness", columns, rows, shown=False)
