"""The tables of a report: runs, scores, GLUE and ANLI beside what was published."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from mat_ds.reports.groups import Group, deviation
from mat_ds.reports.runs import KINDS, RunData
from mat_ds.reports.table import Column, Row, Table, text
from mat_ds.tasks.registry import TASKS

GLUE = {
    "cola": "CoLA",
    "sst2": "SST-2",
    "mrpc": "MRPC",
    "qqp": "QQP",
    "stsb": "STS-B",
    "mnli": "MNLI",
    "qnli": "QNLI",
    "rte": "RTE",
}
ANLI = {"dev_r1": "R1", "dev_r2": "R2", "dev_r3": "R3", "test_r1": "test R1", "test_r2": "test R2", "test_r3": "test R3"}
# Of the exported model's config.json: (architecture, width) -> what papers call it.
MODELS = {("bert", 768): "BERT-base", ("roberta", 768): "RoBERTa-base", ("roberta", 1024): "RoBERTa-large"}
SIDE_BY_SIDE = "The best of many evaluations flatters: read it beside the last and the median of the last half."


@cache
def published() -> dict[str, Any]:
    """What was published, with its sources."""
    return dict(yaml.safe_load(files("mat_ds.reports").joinpath("published.yaml").read_text(encoding="utf-8")))


def runs_table(groups: Sequence[Group]) -> Table:
    """Every run: what it is, how far it came, where it ran."""
    rows = [_run_row(group, run) for group in groups for run in group.runs]
    columns = [("run", "name"), ("task", "task"), ("experiment", "label"), ("seed", "seed"), ("status", "status"),
               ("steps", "reached"), ("commit", "commit"), ("ranks", "ranks"), ("devices", "devices")]  # fmt: skip
    return Table("runs", "Runs", tuple(text(title, key) for title, key in columns), rows)


def _run_row(group: Group, run: RunData) -> Row:
    devices = run.environment.get("devices") or ["?"]
    return {
        "name": run.name, "task": group.task, "label": group.label, "seed": str(run.seed), "status": run.status,
        "reached": run.reached, "commit": str(run.environment.get("git_commit") or "–")[:8],
        "ranks": str(run.environment.get("world_size", "–")), "devices": ", ".join(dict.fromkeys(map(str, devices))),
    }  # fmt: skip


def scores_table(groups: Sequence[Group]) -> Table:
    """Means over the seeds of the number that selects a model, in percent, with its standard deviation, and what it cost."""
    columns = (
        text("task", "task"), text("experiment", "label"), text("seeds", "seeds"),
        *(Column(title, (kind,), spread=f"{kind} sd") for kind, title in KINDS.items()),
        Column("seconds", ("seconds",)), Column("passes per example", ("passes",), digits=1),
    )  # fmt: skip
    return Table("scores", "Scores", columns, [_scores_row(group) for group in groups if group.values("last")], SIDE_BY_SIDE)


def _scores_row(group: Group) -> Row:
    counted = group.counted
    unfinished = "" if group.finished else ", unfinished"
    row: Row = {"task": group.task, "label": group.label, "seeds": f"{len(counted)}{unfinished}"}
    for kind in KINDS:
        values = [100 * value for value in group.values(kind)]
        row |= {kind: sum(values) / len(values), f"{kind} sd": deviation(values)}
    passes = [run.passes for run in counted if run.passes is not None]
    examples = [run.step * run.config["train"]["batch_size"] for run in counted]
    row["seconds"] = sum(run.seconds for run in counted) / len(counted)
    row["passes"] = sum(passes) / max(1, sum(examples)) if len(passes) == len(counted) else None
    return row


def glue_table(groups: Sequence[Group]) -> Table | None:
    """Tables 1 and 2 of the paper: published rows, then ours, last, best and median apart; None without a run on GLUE."""
    own = [group for group in groups if group.task in GLUE and group.values("last")]
    measured: dict[tuple[str, str, str], Row] = {}
    for group in own:
        for kind, title in KINDS.items():
            key = (model_of(group.runs[0]), group.label, title)
            row = measured.setdefault(key, _measured(*key, group))
            row[group.task] = _cell(group, kind)
    return _beside("glue", "GLUE, dev sets", GLUE, "glue", list(measured.values())) if own else None


def anli_table(groups: Sequence[Group]) -> Table | None:
    """Table 3 of the paper; None without a run on ANLI. Test scores are of the exported model."""
    own = [group for group in groups if group.task.startswith("anli") and group.values("last")]
    rows = []
    for group in own:
        for kind, title in KINDS.items():
            row = _measured(model_of(group.runs[0]), f"{group.label} ({group.task})", title, group)
            row |= {split: _percent([group.mean(kind, f"{split}/accuracy")]) for split in ANLI if split.startswith("dev")}
            tested = [run.results.get("test", {}) for run in group.counted]
            for split in [split for split in ANLI if split.startswith("test")]:
                found = [test[split]["accuracy"] for test in tested if split in test]
                row[split] = _percent([sum(found) / len(found)]) if found and kind == "best" else "–"
            rows.append(row)
    return _beside("anli", "ANLI, accuracy by round", ANLI, "anli", rows) if own else None


def _measured(model: str, label: str, kind: str, group: Group) -> Row:
    return {"label": label, "kind": kind, "model": model, "source": f"measured, {len(group.counted)} seeds"}


def _beside(name: str, title: str, tasks: dict[str, str], key: str, measured: list[Row]) -> Table:
    columns = [("method", "label"), ("score", "kind"), ("model", "model"), ("source", "source")]
    quoted = [{"kind": "best", **{task: "–" for task in tasks}, **row, "source": f"published: {row['source']}"}
              for row in published()[key]]  # fmt: skip
    rows = [*quoted, *({**dict.fromkeys(tasks, "–"), **row} for row in measured)]
    note = f"In percent. Other models than those published are not comparable with them. {SIDE_BY_SIDE}"
    return Table(
        name, title, tuple(text(*column) for column in columns) + tuple(text(t, k) for k, t in tasks.items()), rows, note
    )


def _cell(group: Group, kind: str) -> str:
    spec = TASKS[group.task]
    return _percent([group.mean(kind, f"{split}/{metric}") for split in spec.dev for metric in spec.metrics])


def _percent(values: Sequence[float | None]) -> str:
    return "/".join("–" if value is None else f"{100 * value:.1f}" for value in values)


def model_of(run: RunData) -> str:
    """What papers call the model of a run, or the end of its name."""
    key = (run.architecture.get("model_type"), run.architecture.get("hidden_size"))
    return MODELS.get(key, str(run.config["model"]["name"]).rstrip("/").rpartition("/")[2])  # type: ignore[arg-type]
