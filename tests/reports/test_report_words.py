"""A report is written for people: its labels, numbers and titles, and no run that does not exist."""

import json
import shutil
from itertools import count
from types import SimpleNamespace

import pytest

from mat_ds.cli import main
from mat_ds.errors import ExitCode
from mat_ds.reports.curves import curves_of, curves_table, learning_curves
from mat_ds.reports.drawing import house_style
from mat_ds.reports.labels import group_runs, shown
from mat_ds.reports.runs import read_runs
from mat_ds.reports.tables import glue_tables, scores_table
from mat_ds.storage.rundir import run_folders
from tests.support.reported import BERT, make_run

SCORES = (0.2, 0.6, 0.4)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A clock that advances by a minute per event."""
    minutes = count()
    monkeypatch.setattr("mat_ds.storage.events.time", SimpleNamespace(time=lambda: 60.0 * next(minutes)))


def groups_of(folder):
    return group_runs(read_runs([folder]))


@pytest.mark.parametrize(
    "value, others, text",
    [
        (0.13768488675150273, (), "0.14"),
        (0.13768488675150273, (1.0, 0.2), "0.14"),
        (0.13768488675150273, (0.1398, 0.13768488675150273), "0.138"),
        (0.13768488675150273, (0.13768488675150999,), "0.1376848867515"),
        (1.25, (), "1.25"),
        (2e-05, (), "2e-5"),
        (3.6214e-05, (), "3.6e-5"),
        (10.0, (), "10"),
        (12345.0, (), "12345"),
        (1e22, (), "1e22"),
        (5, (), "5"),
        (True, (), "true"),
        (None, (), "null"),
    ],
)
def test_a_number_is_written_as_a_person_would_and_differs_from_the_others(value, others, text):
    assert shown(value, others) == text


def test_labels_round_what_a_sampler_drew_and_files_do_not(tmp_path):
    for place, lam in enumerate((0.13768488675150273, 0.13901, 3.0)):
        make_run(tmp_path / "runs" / str(place), SCORES, lam=lam)
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == ExitCode.OK
    assert [group.label for group in groups_of(tmp_path / "runs")] == ["MAT λ=0.138", "MAT λ=0.139", "MAT λ=3"]
    page, file = ((tmp_path / "out" / name).read_text() for name in ("index.html", "ablation-lambda.csv"))
    assert "0.13768" not in page and ">0.138<" in page and "0.13768488675150273" in file


def test_scores_name_their_metric_and_the_time_with_and_without_evaluations(tmp_path):
    make_run(tmp_path / "runs" / "cola", SCORES)
    make_run(tmp_path / "runs" / "mrpc", SCORES, task="mrpc")
    table = scores_table(groups_of(tmp_path / "runs"))
    cells = [{column.title: column.show(row) for column in table.columns} for row in table.rows]
    assert [cell["metric"] for cell in cells] == ["Matthews correlation", "mean of accuracy and F1"]
    # A start, 12 steps with telemetry, 3 evaluations and an end are a minute apart; the steps took six seconds.
    assert [(cell["wall time"], cell["time in steps"]) for cell in cells] == [("28.0 min", "6.0 s")] * 2


def test_the_wall_time_does_not_count_the_pause_before_a_run_goes_on(tmp_path):
    run = make_run(tmp_path / "run", SCORES, end=None)
    last = json.loads(run.events.read_text().splitlines()[-1])
    later = [{"event": event, "step": 12, "time": last["time"] + 86400 + 60 * i} for i, event in enumerate(("start", "end"))]
    with run.events.open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in later)
    (data,) = read_runs([run.path])
    assert data.wall_time == 60 * (2 * 12 + 3) + 60


def test_published_rows_stand_beside_measured_rows_of_their_task_only(tmp_path):
    make_run(tmp_path / "rte", SCORES, task="rte", model="bert-base-cased", shape=BERT)
    (table,) = glue_tables(groups_of(tmp_path))
    assert table.name == "glue-BERT-base" and [c.title for c in table.columns[4:]] == ["RTE"]
    quoted = [row for row in table.rows if row["source"].startswith("published")]
    assert quoted and all(table.columns[-1].show(row) != "–" for row in quoted) and "score" not in table.note


def test_copies_in_mlflows_artifact_store_are_not_runs(tmp_path, capsys):
    run = make_run(tmp_path / "runs" / "one", SCORES)
    for copy in ("mlartifacts/mat_ds/0a/artifacts", "mlruns/1/0b/artifacts"):
        (tmp_path / "runs" / copy).mkdir(parents=True)
        for name in ("config.yaml", "environment.json", "results.json"):
            shutil.copy(run.path / name, tmp_path / "runs" / copy)
    assert list(run_folders(tmp_path / "runs")) == [run.path]
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == ExitCode.OK
    assert "\n1 run (1 finished) of 1 experiment: " in capsys.readouterr().out
    assert main(["report", str(tmp_path / "runs" / "mlruns"), "--out", str(tmp_path / "out")]) == ExitCode.USER_ERROR
    assert "has no run" in capsys.readouterr().err


def test_figures_have_a_title_and_r_of_every_step(tmp_path):
    make_run(tmp_path / "mat", SCORES)
    make_run(tmp_path / "rdrop", SCORES, name="rdrop")
    run = make_run(tmp_path / "freelb", SCORES, name="freelb")  # does not minimise R
    lines = [json.loads(line) for line in run.events.read_text().splitlines()]
    for record in lines:
        if record["event"] == "step":
            del record["R"]
    run.events.write_text("".join(json.dumps(record) + "\n" for record in lines))
    for folder in ("mat", "rdrop"):  # telemetry of a few steps
        events = tmp_path / folder / "events.jsonl"
        kept = [
            line for line in events.read_text().splitlines() if json.loads(line)["step"] in (0, 4) or "telemetry" not in line
        ]
        kept = [line.replace(', "delta_linf": 0.001', "") if folder == "rdrop" else line for line in kept]
        events.write_text("\n".join(kept) + "\n")
    groups = {group.method: group for group in groups_of(tmp_path)}
    mat, rdrop, freelb = (curves_of(groups[name]) for name in ("mat", "rdrop", "freelb"))
    assert len(mat["R, perturbed"].steps) == 12 and mat["R, not perturbed"].steps == [4]
    assert rdrop["R, perturbed"].steps == [] and len(rdrop["R, not perturbed"].steps) == 12
    assert set(freelb["R, perturbed"].mean) == {0.2}
    with house_style():
        (picture,) = learning_curves("cola", list(groups.values()))
    assert picture.figure.get_suptitle() == "cola: learning curves" and picture.name == "cola-curves"


def test_a_figure_is_drawn_once_for_each_of_its_files(tmp_path, monkeypatch):
    make_run(tmp_path / "run", SCORES)
    with house_style():
        (picture,) = learning_curves("cola", groups_of(tmp_path))
    drawn, draw = [], type(picture.figure).draw
    monkeypatch.setattr("matplotlib.figure.Figure.draw", lambda figure, renderer: (drawn.append(1), draw(figure, renderer)))
    assert picture.svg.startswith(b"<?xml") and picture.png.startswith(b"\x89PNG") and picture.svg and picture.png
    assert len(drawn) == 2


def test_how_far_chains_are_apart_is_drawn_where_a_run_has_several(tmp_path):
    make_run(tmp_path / "one", SCORES)
    run = make_run(tmp_path / "chains", SCORES, chains=2)
    lines = [json.loads(line) for line in run.events.read_text().splitlines()]
    told = [line | {"chains_apart": 0.5 * line["step"]} if line["event"] == "telemetry" else line for line in lines]
    run.events.write_text("".join(json.dumps(line) + "\n" for line in told))
    groups = groups_of(tmp_path)
    with house_style():
        (picture,), (alone,) = (learning_curves("cola", some) for some in (groups, groups_of(tmp_path / "one")))
    panels = {axes.get_ylabel(): axes for axes in picture.figure.axes}
    (line,) = panels["distance of chains"].get_lines()
    assert list(line.get_ydata()) == [0.5 * step for step in range(1, 13)] and len(panels) == 4 == len(alone.figure.axes) + 1
    rows = [row for row in curves_table(groups).rows if row["quantity"] == "distance of chains"]
    assert [row["mean"] for row in rows] == list(line.get_ydata())
