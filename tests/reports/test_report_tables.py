"""GLUE and ANLI tables, and runs that exist only in MLflow."""

import json
from statistics import mean

import pytest

from mat_ds.reports.experiments import environment_of, recorded_options
from mat_ds.reports.labels import group_runs
from mat_ds.reports.published import published
from mat_ds.reports.runs import KINDS, read_runs
from mat_ds.reports.tables import GLUE, _metric_keys, _quoted, _with_scores, anli_table, glue_tables
from mat_ds.runs.options import RunConfig
from mat_ds.tasks.metrics import selection_score
from mat_ds.tracking.content import params_of, tags_of
from tests.support.reported import BERT, make_run, metrics_at


def groups_of(folder):
    return group_runs(read_runs([folder]))


def test_eight_tasks_make_a_glue_row_with_the_scores_that_training_computes(tmp_path):
    own = {task: (0.5, 0.8 + place / 100, 0.7 + place / 100) for place, task in enumerate(GLUE)}
    for task, scores in own.items():
        for seed in (0, 1):
            make_run(tmp_path / f"{task}-{seed}", scores, seed, task, model="prepared/model", shape=BERT)
    make_run(tmp_path / "other", (0.1, 0.2, 0.3), task="rte", model="org/small-model", name="vanilla")
    tables = {table.name: table for table in glue_tables(groups_of(tmp_path))}
    assert list(tables) == ["glue-BERT-base", "glue-small-model"]
    measured = [row for row in tables["glue-BERT-base"].rows if row["source"] == "measured"]
    assert [(row["label"], row["kind"], row["seeds"]) for row in measured] == [("MAT", title, "2") for title in KINDS]
    for row, place in zip(measured, (2, 1, None), strict=True):
        values = {task: scores[place] if place else mean(scores[1:]) for task, scores in own.items()}
        found = {task: metrics_at(values[task], task) for task in own}
        assert row["score"] == pytest.approx(100 * mean(selection_score(splits) for splits in found.values()))
        firsts = [next(iter(next(iter(splits.values())).values())) for splits in found.values()]
        assert row["first score"] == pytest.approx(100 * mean(firsts)) != row["score"]
    (header, *lines) = tables["glue-BERT-base"].csv().splitlines()
    assert "mrpc validation/f1" in header and any(line.startswith('MAT,best,"published: MAT paper, Table 1"') for line in lines)
    shown = [column.show(measured[0]) for column in tables["glue-BERT-base"].columns if column.title in ("CoLA", "MRPC", "RTE")]
    assert shown == ["70.0", "74.0/70.0", "77.0"]
    small = tables["glue-small-model"].rows
    assert [row["label"] for row in small] == ["vanilla"] * 3 and all(row["score"] is None for row in small)


def test_published_scores_are_the_means_of_published_numbers():
    # In a row with all tasks the mean must equal the published one, which shows errors of transcription.
    rows = [row for table in published()["glue"].values() for row in table["rows"] if "score" in row]
    assert len(rows) >= 9
    for row in rows:
        values = [row[task] if isinstance(row[task], list) else [row[task]] for task in GLUE]
        assert mean(mean(value) for value in values) == pytest.approx(row["score"], abs=0.011), row["label"]
        unscored = {key: value for key, value in row.items() if key != "score"}
        made = _with_scores(_quoted(unscored, {task: _metric_keys(task) for task in GLUE}))
        assert (made["score"] or made["first score"]) == pytest.approx(row["score"], abs=0.011), row["label"]
        # The mean is either of all metrics or of the first ones, which are different columns.
        assert len({len(row[task] if isinstance(row[task], list) else [0]) for task in ("mrpc", "qqp", "stsb", "mnli")}) == 1


def test_a_published_score_is_in_the_column_of_its_metrics(tmp_path):
    make_run(tmp_path / "rte", (0.1, 0.2, 0.3), task="rte", model="roberta-large")
    (table,) = [table for table in glue_tables(groups_of(tmp_path)) if table.name == "glue-RoBERTa-large"]
    scores = {(row["label"], row["source"]): (row["score"], row["first score"]) for row in table.rows}
    assert scores["RoBERTa", "published: MAT paper, Table 2"] == (None, 88.93)
    firsts = (71.3, 97.1, 91.7, 92.5, 92.9, 91.3, 95.7, 90.6)
    assert scores["MAT", "published: MAT paper, Table 2"] == (90.35, pytest.approx(mean(firsts)))


def test_anlis_test_scores_are_in_the_row_of_the_exported_model(tmp_path):
    test = {f"test_r{i}": {"accuracy": 0.3 + i / 10} for i in (1, 2, 3)}
    make_run(tmp_path / "anli", (0.1, 0.6, 0.5), task="anli_mixture", model="roberta-large", test=test)
    rows = {row["kind"]: row for row in anli_table(groups_of(tmp_path)).rows if row["source"] == "measured"}
    assert [rows["last"][split] for split in ("dev_r1", "test_r1", "test_r3")] == pytest.approx([52, 40, 60])
    assert [rows["best"][split] for split in ("dev_r1", "test_r1")] == [pytest.approx(62), None]
    assert rows["last"]["label"] == "MAT (anli_mixture, RoBERTa-large)"


def test_options_read_back_from_mlflows_texts_are_those_of_the_run():
    config = RunConfig().model_dump(mode="json")
    config["method"] |= {"dropout": "off", "delta_noise": 1e-05}
    config |= {"output_dir": "a folder: {of"}
    started = [{"changed": {}}, {"changed": {"train.epochs": [3.0, 5.0]}}, {"changed": {"train.epochs": [5.0, 7.0]}}]
    config["train"]["epochs"] = 7.0
    found = recorded_options(params_of(config, started))
    # Empty sections have no parameter.
    empty = {"plugins": config["plugins"], "tracking": config["tracking"]}
    assert json.dumps({**found, **empty}, sort_keys=True) == json.dumps(config, sort_keys=True)


def test_mlflow_holds_the_parts_of_the_environment_that_a_report_shows():
    environment = {"devices": ["cpu"], "data_sha256": "d", "git_commit": "c", "packages": {"torch": "2.13.0"}}
    assert environment_of(tags_of(environment, {"team": "nlp"})) == environment
    for half in ("fp16", "bf16"):
        told = tags_of({**environment, "deepspeed_config": {half: {"enabled": True}}}, {})
        assert environment_of(told) == {**environment, "precision": half}
    assert tags_of({"deepspeed_config": {"fp16": {"enabled": False}}}, {})["mat_ds.precision"] == "fp32"
    assert environment_of({}) == {"devices": [], "packages": {}}
