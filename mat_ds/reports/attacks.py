"""What `mat-ds evaluate` found by attacks on texts: a figure, tables of what broke, changed texts, calibration under shift."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from textwrap import fill
from typing import Any

from mat_ds.reports.drawing import BESIDE, Picture, legend_below, looks, picture, sample, sheet
from mat_ds.reports.groups import Group, mean_of, one_a_seed
from mat_ds.reports.table import Column, Row, Table, text
from mat_ds.tasks.registry import TASKS

# Changed texts of an attack on a split, and characters of one on the page.
SHOWN, LONGEST = 3, 240
SHIFTED = {"nll": "NLL", "brier": "Brier", "ece": "ECE", "aurc": "AURC"}
HEAD = (text("experiment", "label"), text("task", "task"), text("split", "split"))
# Experiment -> split -> attack -> what each seed's newest evaluation found.
Attacks = dict[Group, dict[str, dict[str, list[dict[str, Any]]]]]


def attacks_on_texts(groups: Sequence[Group]) -> Attacks:
    """What attacks on texts did, of each seed the newest evaluation that has the attack."""
    every: Attacks = {}
    for group in groups:
        for run in one_a_seed(run for run in group.runs if run.robustness):
            newest = {
                (split, name): point
                for report in run.robustness
                for split, found in dev_splits(report).items()
                for name, point in found.get("text_attacks", {}).items()
            }
            for (split, name), point in newest.items():
                every.setdefault(group, {}).setdefault(split, {}).setdefault(name, []).append(point)
    return every


def dev_splits(report: dict[str, Any]) -> dict[str, Any]:
    """What a report of `mat-ds evaluate` has of the dev splits."""
    task, splits = str(report.get("task")), report["splits"]
    return {split: found for split, found in splits.items() if task not in TASKS or split in TASKS[task].dev}


def text_attack_bars(task: str, groups: Sequence[Group]) -> Iterator[Picture]:
    """Figure of the accuracy that each attack on texts leaves, with that on the same texts before it; means over seeds and dev
    splits."""
    every = attacks_on_texts(groups)
    names = list(dict.fromkeys(name for by_split in every.values() for found in by_split.values() for name in found))
    if not names:
        return
    height = 0.8 / len(every)
    figure, (axis,) = sheet(1, 1.0 + max(0.4, 0.22 * len(every)) * len(names))
    legend = [sample("before the attack", color="black", marker="|", linestyle="none")]
    for number, (group, look) in enumerate(zip(every, looks(len(every)), strict=True)):
        for place, name in enumerate(reversed(names)):
            points = [point for found in every[group].values() for point in found.get(name, [])]
            if points:
                at = place + 0.4 - height * (number + 0.5)
                left = 100 * (mean_of(point["robust_accuracy"] for point in points) or 0.0)
                axis.barh(at, left, height * 0.9, color=look["color"], alpha=0.7)
                before = 100 * (mean_of(point["clean"] for point in points) or 0.0)
                axis.plot([before], [at], "|", color="black", markersize=10)
        legend.insert(-1, sample(group.label, color=look["color"], linewidth=6))
    axis.set_yticks(range(len(names)), [fill(name, BESIDE) for name in reversed(names)])
    axis.set_xlim(0, 100)
    axis.set_xlabel("accuracy, %")
    axis.grid(axis="y", visible=False)
    legend_below(figure, legend)
    caption = "accuracy that attacks on texts leave, and before them on the same examples; means over seeds and dev splits."
    yield picture(figure, task, "attacks", "attacks on texts", caption)


def text_attacks_table(groups: Sequence[Group]) -> Table:
    """A row for each experiment, dev split and attack."""
    rows: list[Row] = []
    for group, by_split in attacks_on_texts(groups).items():
        for split, found in by_split.items():
            for name, points in found.items():
                row: Row = {"label": group.label, "task": group.task, "split": split, "attack": name}
                row["examples"] = "–".join(str(count) for count in dict.fromkeys(_range([p["examples"] for p in points])))
                for key in ("clean", "robust_accuracy", "flip_rate"):
                    value = mean_of(point.get(key) for point in points)
                    row[key] = None if value is None else 100 * value
                rows.append(row | {"queries": mean_of(point.get("queries") for point in points)})
    columns = [*HEAD, text("attack", "attack"), text("examples", "examples"), Column("accuracy before", ("clean",)),
               Column("after", ("robust_accuracy",)), Column("success", ("flip_rate",)),
               Column("queries", ("queries",))]  # fmt: skip
    note = (
        "In percent. Success is the share of right answers that the attack made wrong, queries are how many texts the model "
        "was asked about for each. Means over the seeds, of each the newest evaluation."
    )
    return Table("attacks", "Attacks on texts", tuple(columns), rows, note)


def _range(counts: Sequence[int]) -> tuple[int, int]:
    return min(counts), max(counts)


def changed_texts_table(groups: Sequence[Group]) -> Table:
    """Some of the texts that made a right answer wrong, of the first seed."""
    rows: list[Row] = []
    for group, by_split in attacks_on_texts(groups).items():
        for split, found in by_split.items():
            for name, points in found.items():
                for one in points[0].get("shown", [])[:SHOWN]:
                    pair = {"text": " / ".join(one["texts"]), "changed": " / ".join(one["changed"])}
                    pair["difference"] = difference(pair["text"], pair["changed"])
                    cut = {f"{key} shown": _cut(value) for key, value in pair.items()}
                    told = {"label": group.label, "split": split, "attack": name, "gold": str(one.get("label"))}
                    rows.append({**told, **pair, **cut})
    columns = (text("experiment", "label"), text("split", "split"), text("attack", "attack"), text("label", "gold"),
               text("text", "text", "text shown"),
               Column("what changed", ("changed", "difference"), digits=None, shown="difference shown"))  # fmt: skip
    note = (
        "Texts whose right answer an attack made wrong. Whether the label still holds for them is for a reader to judge. "
        "Letters of other alphabets, which look alike, stand by their number; the CSV has the changed texts whole."
    )
    return Table("changed-texts", "Changed texts", columns, rows, note)


def difference(before: str, after: str) -> str:
    """The words of a text that were changed, removed or added, with what became of them; characters that are not in the text
    before and no ASCII are escaped, as many cannot be told apart."""
    old, new = before.split(), after.split()
    parts = []
    for what, first, last, start, end in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if what != "equal":
            gone, come = " ".join(old[first:last]), " ".join(new[start:end])
            parts.append(f"{gone} → {come}" if gone and come else f"- {gone}" if gone else f"+ {come}")
    seen = {*before, "→"}
    return "".join(letter if letter.isascii() or letter in seen else ascii(letter)[1:-1] for letter in "; ".join(parts))


def _cut(value: str) -> str:
    return value if len(value) <= LONGEST else f"{value[: LONGEST - 1]}…"


def shift_table(groups: Sequence[Group]) -> Table:
    """Calibration on the texts as they are, on noisy ones and on those that attacks found."""
    rows: list[Row] = []
    for group in groups:
        found: dict[tuple[str, str], list[dict[str, float]]] = {}
        for run in one_a_seed(run for run in group.runs if run.robustness):
            newest: dict[tuple[str, str], dict[str, float]] = {}
            for report in run.robustness:
                for split, one in dev_splits(report).items():
                    newest |= {(split, title): point for title, point in _shifted(one)}
            for key, point in newest.items():
                found.setdefault(key, []).append(point)
        if len(found) > len({split for split, _ in found}):  # not on the texts as they are alone
            for (split, title), points in found.items():
                row: Row = {"label": group.label, "task": group.task, "split": split, "texts": title}
                rows.append(row | {name: mean_of(point.get(name) for point in points) for name in SHIFTED})
    numbers = (Column(title, (name,), digits=3) for name, title in SHIFTED.items())
    note = "Of the probabilities as they are, without a temperature; less of each is better. Means over the seeds."
    return Table("shift", "Calibration under shift", (*HEAD, text("texts", "texts"), *numbers), rows, note)


def _shifted(found: dict[str, Any]) -> Iterator[tuple[str, dict[str, float]]]:
    if before := found.get("calibration", {}).get("before"):
        yield "as they are", before
    shift = found.get("shift", {})
    for kind, points in shift.get("noise", {}).items():
        yield from ((f"{kind} {point['rate']:g}", point) for point in points)
    yield from shift.get("text_attacks", {}).items()
