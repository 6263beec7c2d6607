"""Which labels are taken for which: a table for each task, the runs of an experiment added up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mat_ds.artifacts.confusion import LISTED, WIDEST, confused
from mat_ds.reports.groups import Group
from mat_ds.reports.table import Column, Row, Table, text

HEAD = (text("experiment", "experiment"), text("split", "split"), text("label", "gold"))
Found = dict[str, list[list[int]]]


def confusion_tables(groups: Sequence[Group]) -> Iterator[Table]:
    """Yields the table of each task whose finished runs counted what they confused."""
    for task in dict.fromkeys(group.task for group in groups):
        found = {group: counted for group in groups if group.task == task and (counted := _counts(group))}
        for labels in dict.fromkeys(labels for labels, _ in found.values()):
            own = {group: counts for group, (names, counts) in found.items() if names == labels}
            yield _wide(task, labels, own) if len(labels) <= WIDEST else _long(task, labels, own)


def _counts(group: Group) -> tuple[tuple[str, ...], Found] | None:
    """The labels, and for each split the counts of all runs of the group that have the same; None if no run has any."""
    every = [run.results["confusion"] for run in group.counted if run.results.get("confusion")]
    if not every:
        return None
    labels, total = every[0]["labels"], dict[str, list[list[int]]]()
    for found in (found for found in every if found["labels"] == labels):
        for split, counts in found["counts"].items():
            before = total.get(split, [[0] * len(labels)] * len(labels))
            pairs = zip(before, counts, strict=True)
            total[split] = [[a + b for a, b in zip(one, other, strict=True)] for one, other in pairs]
    return tuple(labels), total


def _wide(task: str, labels: Sequence[str], found: dict[Group, Found]) -> Table:
    rows: list[Row] = [
        {"experiment": group.label, "split": split, "gold": label, **{f"answer {i}": n for i, n in enumerate(row)}}
        for group, splits in found.items()
        for split, counts in splits.items()
        for label, row in zip(labels, counts, strict=True)
    ]
    columns = tuple(Column(label, (f"answer {i}",), digits=0) for i, label in enumerate(labels))
    note = "Dev examples by label (rows) and answer (columns), added up over the seeds."
    return Table(f"confusion-{task}", f"{task}: confusion", (*HEAD, *columns), rows, note)


def _long(task: str, labels: Sequence[str], found: dict[Group, Found]) -> Table:
    rows: list[Row] = [
        {"experiment": group.label, "split": split, "gold": gold, "answer": answer, "count": count}
        for group, splits in found.items()
        for split, counts in splits.items()
        for gold, answer, count in confused(labels, counts)[:LISTED]
    ]
    columns = (text("answer", "answer"), Column("examples", ("count",), digits=0))
    note = f"The {LISTED} pairs of labels that are confused most, with their dev examples, added up over the seeds."
    return Table(f"confusion-{task}", f"{task}: confused most", (*HEAD, *columns), rows, note)
