"""A report compares only what is comparable: metrics, precisions, seeds, finished runs and whole data sets."""

import shutil
from itertools import count
from types import SimpleNamespace

import pytest

from mat_ds.cli import main
from mat_ds.errors import ExitCode
from mat_ds.reports import ablations, curves, figures, runs
from mat_ds.reports.experiments import environment_of
from mat_ds.reports.labels import group_runs, unsaid_options
from mat_ds.reports.runs import RunData, read_runs
from mat_ds.reports.tables import anli_table, glue_tables, scores_table
from mat_ds.tracking.content import tags_of
from tests.support.reported import attack, make_run

SCORES = (0.2, 0.6, 0.4)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A clock that advances by a second per event."""
    seconds = count()
    monkeypatch.setattr("mat_ds.storage.events.time", SimpleNamespace(time=lambda: float(next(seconds))))


def groups_of(folder):
    return group_runs(read_runs([folder]))


def drawn(monkeypatch, module, figure_of, groups):
    """(figure, caption) of each figure of a task."""
    monkeypatch.setattr(module, "picture", lambda figure, task, part, title, caption: (figure, caption))
    return list(figure_of(groups[0].task, groups))


def legend_of(figure):
    return [entry.get_text() for entry in figure.legends[0].get_texts()]


def measured(table):
    return [row for row in table.rows if row["source"].startswith("measured")]


def test_published_accuracy_is_compared_with_our_accuracy(tmp_path):
    for lam, score in ((1.0, 0.5), (3.0, 0.6)):
        make_run(tmp_path / f"{lam}", (score,) * 3, task="mrpc", lam=lam)
        make_run(tmp_path / f"cola-{lam}", (score,) * 3, task="cola", lam=lam)
    groups = groups_of(tmp_path)
    rows = {(row["task"], row["value"]): row for row in measured(ablations.ablation_table(groups, "λ"))}
    assert [rows["mrpc", value]["last"] for value in ("1", "3")] == pytest.approx([52, 62])
    assert [rows[task, "1"]["metric"] for task in ("mrpc", "cola")] == ["accuracy", "Matthews correlation"]


def test_without_published_numbers_the_mean_of_the_metrics_is_shown_as_score(tmp_path):
    for lam in (1.0, 3.0):
        make_run(tmp_path / f"{lam}", (0.5,) * 3, task="qqp", lam=lam)
    groups = groups_of(tmp_path)
    assert [(row["metric"], row["last"]) for row in measured(ablations.ablation_table(groups, "λ"))] == [("score", 50)] * 2


def test_runs_in_half_precision_are_a_group_of_their_own_also_from_mlflow(tmp_path):
    make_run(tmp_path / "fp32", SCORES)
    make_run(tmp_path / "fp16", SCORES, half="fp16", seed=1)
    here = read_runs([tmp_path])
    tracked = [RunData(run.name, run.config, run.events, environment_of(tags_of(run.environment, {}))) for run in here]
    assert [len(group.runs) for group in group_runs([*here, *tracked])] == [2, 2]
    silent = [{key: text for key, text in tags_of(run.environment, {}).items() if key != "mat_ds.precision"} for run in here]
    old = [RunData("old", run.config, run.events, environment_of(tags)) for run, tags in zip(here, silent, strict=True)]
    assert {group.options["precision"] for group in group_runs(old)} == {"unknown"}
    assert sorted(len(group.runs) for group in group_runs([*here, *old])) == [1, 1, 2]


def test_a_removed_option_separates_runs_only_if_it_was_set(tmp_path):
    make_run(tmp_path / "new", SCORES)
    (new,) = read_runs([tmp_path])
    left, changed = (
        RunData(name, {**new.config, "data": {**new.config.get("data", {}), "shuffle": value}}, new.events, new.environment)
        for name, value in (("left alone", True), ("changed", False))
    )
    assert sorted(len(group.runs) for group in group_runs([new, left, changed])) == [1, 2]


def test_of_a_seed_that_ran_twice_the_newest_finished_run_counts(tmp_path):
    make_run(tmp_path / "alone", (0.1, 0.1, 0.1))
    for seed in (0, 1):
        make_run(tmp_path / "seeds" / f"seed-{seed}", (0.1, 0.5, 0.5 + seed / 10), seed)
    make_run(tmp_path / "again", (0.0, 0.0, 0.0), end="KILLED")
    (group,) = groups_of(tmp_path)
    (row,) = scores_table([group]).rows
    assert (row["seeds"], row["last"]) == ("2 (+1 repeated, +1 unfinished)", pytest.approx(55))
    score = curves.curves_of(group)["dev score, %"]
    assert (score.low[-1], score.high[-1]) == pytest.approx((50, 60))


def test_copies_of_a_run_are_one_run_and_the_most_advanced_counts(tmp_path, capsys):
    make_run(tmp_path / "runs" / "a", SCORES, run_id="1" * 32)
    make_run(tmp_path / "runs" / "b", SCORES, run_id="2" * 32, seed=1)
    shutil.copytree(tmp_path / "runs" / "a", tmp_path / "runs" / "copy")
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == ExitCode.OK
    said = capsys.readouterr().out
    assert "left out: runs/copy (the same run as runs/a)" in said and "2 runs (2 finished) of 1 experiment:" in said
    here = read_runs([tmp_path / "runs" / "a"])[0]
    tracked = RunData("in MLflow", here.config, here.events, run_id=here.run_id)
    behind = RunData("behind", here.config, here.events[:5], folder=here.folder, run_id=here.run_id)
    assert runs.each_once([here, tracked]) == ([here], [])
    assert runs.each_once([behind, tracked]) == ([tracked], ["left out: behind (the same run as in MLflow)"])


def test_unfinished_runs_are_not_in_figures_of_results(tmp_path, monkeypatch):
    for lam, end in ((1.0, "FINISHED"), (2.0, "FINISHED"), (3.0, "KILLED")):
        for seed in (0, 1):
            make_run(tmp_path / f"{lam}-{seed}", (0.1, 0.2, 0.3), seed, lam=lam, end=end)
    groups = groups_of(tmp_path)
    (family,) = ablations.families(groups)
    assert list(family.members) == [(1.0,), (2.0,)]
    cut = next(group.label for group in groups if not group.finished)
    ((figure, _),) = drawn(monkeypatch, figures, figures.box_plot, groups)
    said = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert not any(cut in words for words in said) and any("MAT λ=2" in words for words in said)
    ((figure, _),) = drawn(monkeypatch, curves, curves.learning_curves, groups)
    assert f"{cut}, unfinished" in legend_of(figure) and "MAT λ=2" in legend_of(figure)


@pytest.mark.parametrize("end, expected", [("FINISHED", "measured"), ("KILLED", "measured, unfinished")])
def test_a_row_next_to_published_ones_says_that_its_runs_are_unfinished(tmp_path, end, expected):
    make_run(tmp_path / "anli", SCORES, task="anli_mixture", model="roberta-large", end=end)
    assert {row["source"] for row in measured(anli_table(groups_of(tmp_path)))} == {expected}


def test_a_row_next_to_published_ones_says_how_much_of_the_data_was_used(tmp_path):
    parts = {"data": {"eval_limit": 100, "train_limit": 768}}
    for lam in (1.0, 3.0):
        make_run(tmp_path / "cola" / f"{lam}", SCORES, model="bert-base-cased", lam=lam, options=parts)
    make_run(tmp_path / "rte", SCORES, model="bert-base-cased", task="rte", options={"data": {"eval_limit": 277}})
    make_run(tmp_path / "mnli", SCORES, model="bert-base-cased", task="mnli", options=parts)
    make_run(tmp_path / "anli", SCORES, task="anli_mixture", model="roberta-large", options=parts)
    part = "measured, on 100 of 1,043 dev examples, trained on 768 of 8,551 examples"
    cola = groups_of(tmp_path / "cola")
    assert {row["source"] for row in measured(ablations.ablation_table(cola, "λ"))} == {part}

    def of_glue(*tasks):
        chosen = [group for group in groups_of(tmp_path) if group.task in tasks]
        return {row["label"]: row["source"] for row in measured(glue_tables(chosen)[0])}

    assert of_glue("cola") == {"MAT λ=1": part, "MAT λ=3": part}
    assert of_glue("rte") == {"MAT": "measured"}  # all of its 277 examples
    assert of_glue("rte", "mnli") == {
        "MAT": "measured, mnli on 100 of 9,832 dev examples of each split, trained on 768 of 392,702 examples"
    }
    assert {row["source"] for row in measured(anli_table(groups_of(tmp_path)))} == {
        "measured, on 100 of 1,200 dev examples of each split, trained on 768 examples"
    }


def test_the_note_to_labels_has_options_that_differ_from_the_defaults_or_between_runs(tmp_path):
    usual = {"optimizer": {"lr": 2e-5}, "train": {"epochs": 10.0}}
    make_run(tmp_path / "mat", SCORES, options=usual)
    make_run(tmp_path / "vanilla", SCORES, options=usual, name="vanilla")
    make_run(tmp_path / "steep", SCORES, options={**usual, "optimizer": {"lr": 1e-4}})
    assert list(unsaid_options(groups_of(tmp_path))) == ["All experiments, unless a label says otherwise: lr=2e-5, epochs=10."]
    make_run(tmp_path / "lam1", SCORES, options=usual, lam=5.0)
    make_run(tmp_path / "rte", SCORES, options=usual, lam=5.0, task="rte")
    assert list(unsaid_options(groups_of(tmp_path))) == [
        "All experiments, unless a label says otherwise: lr=2e-5, epochs=10.",
        "MAT on cola, unless a label says otherwise: λ=1.",
        "MAT on rte, unless a label says otherwise: λ=5.",
    ]


def test_experiments_on_a_task_have_different_labels_and_all_are_shown(tmp_path, monkeypatch):
    for name, score in (("small", 0.2), ("large", 0.8)):
        run = make_run(tmp_path / name, (score,) * 3, model=f"prepared/{name}/model", shape={})
        attack(run, "linf", (score,) * 3)
    # Two options whose names end alike.
    make_run(tmp_path / "one", (0.3,) * 3, model="prepared/small/model", options={"optimizer": {"eps": 0.3}})
    make_run(tmp_path / "two", (0.4,) * 3, model="prepared/small/model", eps=0.3)
    groups = groups_of(tmp_path)
    labels = [group.label for group in groups]
    assert {"MAT eps=0.3", "MAT eps=0.3 (2)", "MAT model=large/model"} < set(labels) and len(set(labels)) == 4
    table = next(table for table in glue_tables(groups) if table.name == "glue-model")
    rows = {row["label"]: row["cola validation/matthews_correlation"] for row in measured(table) if row["kind"] == "last"}
    assert sorted(rows.values()) == pytest.approx([20, 30, 40, 80]) and set(rows) == set(labels)
    ((figure, _),) = drawn(monkeypatch, figures, figures.robustness, groups)
    assert sorted(line.get_ydata()[0] for line in figure.axes[0].get_lines()) == pytest.approx([20, 80])
    ((figure, _),) = drawn(monkeypatch, curves, curves.learning_curves, groups)
    assert len(figure.axes[0].get_lines()) == 4


def test_of_evaluations_with_the_same_settings_the_newest_is_drawn(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", SCORES)
    attack(run, "linf", (0.9, 0.8, 0.7))
    attack(run, "linf", (0.6, 0.5, 0.4), "evaluation-2")
    attack(run, "l2", (0.6, 0.3, 0.2), "evaluation-10")
    ((figure, _),) = drawn(monkeypatch, figures, figures.robustness, groups_of(tmp_path))
    lines = {axis.get_xlabel().split()[0]: list(axis.get_lines()[0].get_ydata()) for axis in figure.axes}
    assert lines == {"L∞": pytest.approx([60, 50, 40]), "share": pytest.approx([60, 20]), "L2": pytest.approx([60, 30, 20])}


def test_a_figure_of_the_best_experiments_says_how_many_there_are(tmp_path, monkeypatch):
    for number in range(4):
        make_run(tmp_path / f"{number}", (0.1, 0.1, number / 10), lam=float(number))
    groups = groups_of(tmp_path)
    ((_, caption),) = drawn(monkeypatch, curves, curves.learning_curves, groups)
    assert "Of 4" not in caption
    monkeypatch.setattr(curves, "SHOWN", 3)
    ((_, caption),) = drawn(monkeypatch, curves, curves.learning_curves, groups)
    assert caption.endswith(" Of 4 experiments the 3 with the highest median scores.")
