"""The tables of a report: runs, scores, GLUE and ANLI beside published results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from statistics import mean
from typing import Any

from mat_ds.methods.base import units_text
from mat_ds.reports.groups import SPREAD, Group, mean_and_spread, mean_of
from mat_ds.reports.labels import name_in_papers
from mat_ds.reports.published import metrics_of, published, source_of
from mat_ds.reports.runs import KINDS, RunData
from mat_ds.reports.table import Column, Row, Table, text
from mat_ds.storage.progress import Progress
from mat_ds.tasks.measures import dev_loss, score_title
from mat_ds.terminal.units import duration

GLUE = {"cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "qqp": "QQP", "stsb": "STS-B", "mnli": "MNLI", "qnli": "QNLI",
        "rte": "RTE"}  # fmt: skip
ANLI = {f"{part}_r{number}": f"{part} R{number}" for part in ("dev", "test") for number in (1, 2, 3)}
# Architecture, width and layers in the exported model's config.json -> its name in papers.
MODELS: dict[tuple[Any, ...], str] = {
    ("bert", 768, 12): "BERT-base",
    ("roberta", 768, 12): "RoBERTa-base",
    ("roberta", 1024, 24): "RoBERTa-large",
}
# The same by the start of the name on the hub, for a run without an exported model.
NAMES = {"bert-base": "BERT-base", "roberta-base": "RoBERTa-base", "roberta-large": "RoBERTa-large"}
SIDE_BY_SIDE = "The best of many evaluations flatters: read it beside the last and the median, which is of the last half."


def runs_table(groups: Sequence[Group]) -> Table:
    """A row per run: options, progress, scores, hardware."""
    rows = [_run_row(group, run) for group in groups for run in group.runs]
    columns = [("run", "name"), ("task", "task"), ("experiment", "label"), ("seed", "seed"), ("status", "status"),
               ("steps", "reached"), ("evaluations", "evaluations")]  # fmt: skip
    told = [("commit", "commit"), ("ranks", "ranks"), ("devices", "devices")]
    scores = [Column(kind, (kind,)) for kind in KINDS]
    return Table("runs", "Runs", (*(text(*c) for c in columns), *scores, *(text(*c) for c in told)), rows)


def _run_row(group: Group, run: RunData) -> Row:
    devices = run.environment.get("devices") or ["?"]
    return {
        "name": run.name, "task": group.task, "label": group.label, "seed": str(run.seed), "status": run.status,
        "reached": run.reached, "evaluations": str(len(run.evaluations)),
        **{kind: run.factor() * found["score"] for kind, found in run.scores.items()},
        "commit": str(run.environment.get("git_commit") or "–")[:8], "ranks": str(run.environment.get("world_size", "–")),
        "devices": ", ".join(dict.fromkeys(map(str, devices))),
    }  # fmt: skip


def scores_table(groups: Sequence[Group]) -> Table:
    """Means of the score over the seeds and their spread, in percent, and the cost."""
    columns = (
        text("experiment", "label"),
        text("task", "task"),
        text("metric", "metric"),
        text("seeds", "seeds"),
        *mean_columns(),
        Column("dev loss", ("dev loss",), digits=3, spread="dev loss"),
        text("evaluations", "evaluations"),
        Column("forward units a step", ("cost",), digits=0, shown="units"),
        Column("thousand passes", ("passes",)),
        Column("time in steps", ("seconds",), shown="in steps"),
        Column("wall time", ("wall time",), shown="in all"),
    )
    rows = [
        {
            "task": group.task,
            "label": group.label,
            "metric": title_of_score(group),
            **means_of(group),
            **_loss_of(group),
            **_cost_of(group),
        }
        for group in groups
        if group.values("last")
    ]
    note = (
        f"In percent (errors as they are, and negative in a score, of which more is better): {SPREAD}; of a seed that ran "
        f"again, the newest. The dev loss is that of the best evaluation. {SIDE_BY_SIDE}"
    )
    return Table("scores", "Scores", columns, rows, note)


def mean_columns(published: bool = False) -> tuple[Column, ...]:
    """Columns for `means_of`, and for a published score."""
    ours = (Column(kind, (kind,), spread=kind) for kind in KINDS)
    return (*ours, *([Column("published", ("published",))] if published else []))


def means_of(group: Group, name: str = "score") -> Row:
    """Last, best and median of a score over the seeds in percent, their spread, and the number of seeds."""
    row: Row = {"seeds": _seeds(group)}
    for kind in KINDS:
        row |= mean_and_spread(kind, group.shown(kind, name))
    return row


def _seeds(group: Group) -> str:
    """How many seeds count, and how many runs do not."""
    count, finished = len(group.counted), sum(run.finished for run in group.runs)
    if not group.finished:
        return f"{count}, unfinished"
    rest = ((finished - count, "repeated"), (len(group.runs) - finished, "unfinished"))
    told = ", ".join(f"+{number} {what}" for number, what in rest if number)
    return f"{count} ({told})" if told else str(count)


def title_of_score(group: Group) -> str:
    """What the score is: a metric, or the mean of some."""
    return score_title(dict.fromkeys(name for run in group.counted for name in run.metrics))


def _loss_of(group: Group) -> Row:
    """Mean and spread over the seeds of the dev loss where the score is best."""
    best = (Progress(evaluations=run.of("evaluation")).best for run in group.counted if run.evaluations)
    found = [loss for evaluation in best if (loss := dev_loss(evaluation)) is not None]
    return mean_and_spread("dev loss", found)


def _cost_of(group: Group) -> Row:
    counts = sorted({len(run.evaluations) for run in group.counted})
    seconds, wall_time = (mean(getattr(run, name) for run in group.counted) for name in ("seconds", "wall_time"))
    cost = group.counted[0].step_cost
    return {
        "evaluations": "–".join(str(count) for count in dict.fromkeys((counts[0], counts[-1]))),
        "passes": mean_of(run.passes and run.passes / 1000 for run in group.counted),
        **({} if cost is None else {"cost": float(cost), "units": units_text(cost)}),
        "seconds": seconds,
        "in steps": duration(seconds),
        "wall time": wall_time,
        "in all": duration(wall_time),
    }


def glue_tables(groups: Sequence[Group]) -> list[Table]:
    """Tables 1 and 2 of the MAT paper: for each model that was trained on GLUE, published rows of the same model and tasks, and
    ours."""
    own = [group for group in groups if group.task in GLUE and group.values("last")]
    models = {model_of(group.runs[0]) for group in own}
    ordered = [model for model in dict.fromkeys((*published()["glue"], *sorted(models))) if model in models]
    return [_glue_table(model, [group for group in own if model_of(group.runs[0]) == model]) for model in ordered]


def _glue_table(model: str, groups: Sequence[Group]) -> Table:
    members: dict[str, list[Group]] = {}
    for group in groups:
        alone = sum(other.task == group.task and other.method == group.method for other in groups) == 1
        members.setdefault(name_in_papers(group.method) if alone else group.label, []).append(group)
    rows = [_glue_row(label, kind, own) for label, own in members.items() for kind in KINDS]
    tasks = [task for task in GLUE if any(group.task == task for group in groups)]
    columns = [Column(GLUE[task], tuple(_metric_keys(task))) for task in tasks]
    scored = ""
    if len(tasks) == len(GLUE):
        scored = (
            "The score is the mean of the tasks' means, the last column the mean of their first metrics, which is all that "
            "some have published: compare within a column. "
        )
        columns += [Column("score", ("score",), digits=2), Column("of first metrics", ("first score",), digits=2)]
    quoted = published()["glue"].get(model, {"title": f"{model}, not published", "rows": []})
    comparable = [row for row in quoted["rows"] if not row.keys().isdisjoint(tasks)]
    shown = [_with_scores(_quoted(row, {task: _metric_keys(task) for task in GLUE})) for row in comparable]
    note = (
        "Dev sets, in percent: Matthews correlation, accuracy, accuracy/F1, Pearson/Spearman, matched/mismatched; a published "
        f"number that stands alone is the first of the two. {scored}{SIDE_BY_SIDE}"
    )
    return Table(f"glue-{model}", f"GLUE: {quoted['title']}", (*_SAID, *columns), [*shown, *rows], note)


_SAID = (text("method", "label"), text("which", "kind"), text("source", "source"), text("seeds", "seeds"))


def _glue_row(label: str, kind: str, groups: Sequence[Group]) -> Row:
    counts = sorted(len(group.counted) for group in groups)
    row: Row = {"label": label, "kind": kind, "source": source_of(groups)}
    row["seeds"] = "–".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    for group in groups:
        row |= {f"{group.task} {name}": _percent(group.mean(kind, name)) for name in metrics_of(group.task)}
    return _with_scores(row)


def _metric_keys(task: str) -> list[str]:
    """Row keys of a task's metrics."""
    return [f"{task} {name}" for name in metrics_of(task)]


def _with_scores(row: Row) -> Row:
    """Adds the GLUE scores to a row that has all tasks: the mean over tasks of each one's mean over metrics and dev splits, as
    in the MAT paper, and the mean of each task's first metric. A published score applies to the metrics published with it."""
    values = [[row.get(key) for key in _metric_keys(task)] for task in GLUE]
    whole, first = all(None not in own for own in values), all(own[0] is not None for own in values)
    scores = {
        "score": mean(mean(float(value or 0.0) for value in own) for own in values) if whole else None,
        "first score": mean(float(own[0] or 0.0) for own in values) if first else None,
    }
    return row | scores | ({"score" if whole else "first score": row["score"]} if "score" in row else {})


def _quoted(row: Row, keys: dict[str, list[str]]) -> Row:
    """A published row with the keys of the table's columns."""
    said: Row = {"kind": "as published", **row, "source": f"published: {row['source']}"}
    for name, own in keys.items():
        value = row.get(name)
        said |= zip(own, value if isinstance(value, list) else [value], strict=False)
    return said


def anli_table(groups: Sequence[Group]) -> Table | None:
    """Table 3 of the MAT paper; None if no run is on ANLI. Test scores belong to the exported model, so only its row has
    them."""
    own = [group for group in groups if group.task.startswith("anli") and group.values("last")]
    rows: list[Row] = []
    for group in own:
        for kind in KINDS:
            label = f"{group.label} ({group.task}, {model_of(group.runs[0])})"
            row: Row = {"label": label, "kind": kind, "source": source_of([group]), "seeds": _seeds(group)}
            exported = [run.results.get("test", {}) for run in group.counted if _exported(run) == kind]
            for split in ANLI:
                on_test = mean_of(test[split].get("accuracy") for test in exported if split in test)
                row[split] = _percent(on_test if split.startswith("test") else group.mean(kind, f"{split}/accuracy"))
            rows.append(row)
    quoted = [_quoted(row, {split: [split] for split in ANLI}) for row in published()["anli"]]
    note = (
        "Accuracy by round, in percent; published rows are RoBERTa-large trained on MNLI, SNLI, FEVER and ANLI. Test scores "
        f"are of the exported model. {SIDE_BY_SIDE}"
    )
    columns = (*_SAID, *(Column(title, (split,)) for split, title in ANLI.items()))
    return Table("anli", "ANLI: Table 3 of the paper", columns, [*quoted, *rows], note) if own else None


def _exported(run: RunData) -> str:
    return str(run.results.get("export", {}).get("which", "best"))


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def model_of(run: RunData) -> str:
    """The name of a run's model in papers, or the end of its own name."""
    shape = tuple(run.architecture.get(key) for key in ("model_type", "hidden_size", "num_hidden_layers"))
    name = PurePath(str(run.config["model"]["name"])).name
    return MODELS.get(shape) or next((known for start, known in NAMES.items() if name.startswith(start)), name)
