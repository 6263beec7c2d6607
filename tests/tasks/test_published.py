"""Benchmarks for evaluation alone: AdvGLUE and ANLI's rounds, as published and as on the hub."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from mat_ds.errors import UserError
from mat_ds.tasks.contradictions import contradictions
from mat_ds.tasks.examples import load_task_data
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.own_data import task_of
from mat_ds.tasks.registry import EVALUATED, TASKS, find_task

# A row of each task as in AdvGLUE's published file, by its key there, and the task's name.
ROWS = {
    "sst2": ("adv_sst2", {"sentence": "a", "label": 1}),
    "qqp": ("adv_qqp", {"question1": "a", "question2": "b", "label": 0}),
    "mnli": ("adv_mnli", {"premise": "a", "hypothesis": "b", "label": 2}),
    "mnli-mm": ("adv_mnli_mismatched", {"premise": "mm", "hypothesis": "b", "label": 1}),
    "qnli": ("adv_qnli", {"question": "a", "sentence": "b", "label": 0}),
    "rte": ("adv_rte", {"sentence1": "a", "sentence2": "b", "label": 1}),
}


def collection(**more):
    return {key: [{**row, "idx": i, **more} for i in range(2)] for key, (_, row) in ROWS.items()}


def load(task, folder, **data):
    return load_task_data(TASKS[task], DataConfig(path=str(folder) if folder else None, **data))


def refused(task, folder):
    with pytest.raises(UserError) as caught:
        load(task, folder)
    return str(caught.value)


@pytest.mark.parametrize("file", ["dev_ann.json", "dev.json", "adv_glue/dev_ann.json", "dev/dev.json"])
@pytest.mark.parametrize("indent", [None, 4])
def test_each_task_of_advglue_reads_its_part_of_the_published_file(file, indent, tmp_path):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(collection(method="glove", data_construction="word"), indent=indent))
    for task, row in ROWS.values():
        data = load(task, tmp_path)
        texts = tuple(row[column] for column in TASKS[task].text)
        assert [(e.texts, e.label, e.group) for e in data.dev["validation"]] == [(texts, row["label"], "glove")] * 2
        assert not data.train and not data.test
    scored = TASKS["adv_rte"].model_copy(update={"dev": ("validation",)})
    own = DataConfig(train="unused.json", validation=str(path))  # as `data.validation=<file>` of an evaluation
    assert load_task_data(scored, own).dev["validation"][1].label == 1


def test_a_file_for_each_task_is_read_as_on_the_hub(tmp_path):
    folder = tmp_path / "adv_sst2"
    folder.mkdir()
    table = pyarrow.table({"sentence": ["a", "b"], "label": [1, 0], "idx": [0, 1]})
    pyarrow.parquet.write_table(table, folder / "validation-00000-of-00001.parquet")
    found = load("adv_sst2", tmp_path).dev["validation"]
    assert [(e.texts, e.label, e.group) for e in found] == [(("a",), 1, None), (("b",), 0, None)]
    pyarrow.parquet.write_table(table.append_column("method", [["x", None]]), folder / "validation-00000-of-00001.parquet")
    assert [e.group for e in load("adv_sst2", tmp_path).dev["validation"]] == ["x", None]
    (tmp_path / "dev.json").write_text(json.dumps(collection()))
    assert "each hold the whole split" in refused("adv_sst2", tmp_path)


def test_what_is_wrong_with_the_files_is_said(tmp_path):
    told = refused("adv_sst2", tmp_path)
    assert "adv_sst2" in told and "or dev_ann.json into" in told
    (tmp_path / "dev_ann.json").write_text(json.dumps({"qqp": [{"question1": "a"}], "rte": "none"}))
    told = refused("adv_sst2", tmp_path)
    assert "has no list of rows under 'sst2'" in told and "qqp, rte" in told
    assert "has no list of rows under 'rte'" in refused("adv_rte", tmp_path)
    assert "lacks the column question2, label" in refused("adv_qqp", tmp_path)
    (tmp_path / "dev_ann.json").write_text(json.dumps(collection())[:-9])
    assert "is not JSON" in refused("adv_sst2", tmp_path)
    (tmp_path / "dev_ann.json").write_text(json.dumps({"sst2": [{"sentence": "a", "label": 2}]}))
    assert "sst2[0]" in refused("adv_sst2", tmp_path)


@pytest.mark.parametrize("task", sorted(EVALUATED))
def test_a_benchmark_has_the_texts_and_labels_of_the_task_that_it_measures_and_is_not_trained_on(task):
    spec, trained = TASKS[task], TASKS[EVALUATED[task]]
    assert (spec.text, spec.labels, spec.metrics) == (trained.text, trained.labels, trained.metrics)
    assert not spec.train and not list(contradictions(spec, task))
    with pytest.raises(UserError) as caught:
        task_of(task, DataConfig())
    (problem,) = caught.value.problems
    assert problem.key == "task" and "no training split" in problem.reason
    assert f"task={EVALUATED[task]}" in problem.fix and f"mat-ds evaluate RUN task={task}" in problem.fix


def test_a_benchmark_is_not_added_to_what_another_task_trains_on(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("{text: [a], labels: [negative, positive], also_train_on: [adv_sst2]}")
    with pytest.raises(UserError, match="no training split"):
        find_task(str(path))
    path.write_text("{text: [a], labels: [negative, positive], also_train_on: [adv]}")
    with pytest.raises(UserError) as caught:
        find_task(str(path))
    assert "sst2" in str(caught.value) and "adv_sst2" not in str(caught.value)


def test_a_round_of_anli_is_read_as_on_the_hub_and_as_published(tmp_path):
    hub, published = tmp_path / "hub", tmp_path / "published"
    (hub / "anli").mkdir(parents=True)
    for split in ("dev_r2", "test_r2"):
        (hub / "anli" / f"{split}.jsonl").write_text(json.dumps({"premise": split, "hypothesis": "h", "label": 2}))
    for r in "123":
        (published / "anli_v1.0" / f"R{r}").mkdir(parents=True)
        for part in ("train", "dev", "test"):
            row = {"uid": "0", "context": f"{part}_r{r}", "hypothesis": "h", "label": "c", "reason": "?"}
            (published / "anli_v1.0" / f"R{r}" / f"{part}.jsonl").write_text(json.dumps(row))
    for folder in (hub, published):
        data = load("anli_eval_r2", folder)
        assert {split: [(e.texts, e.label) for e in examples] for split, examples in (data.dev | data.test).items()} == {
            split: [((split, "h"), 2)] for split in ("dev_r2", "test_r2")
        }
    data = load("anli", published)
    assert [e.texts[0] for e in data.train] == ["train_r1", "train_r2", "train_r3"] and len(data.dev | data.test) == 6
