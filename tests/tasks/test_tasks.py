"""Tasks from files in every format, and one message with all their errors."""

import csv
import json

import pytest

from mat_ds.errors import UserError
from mat_ds.tasks.examples import load_task_data
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.registry import TASKS, find_task
from mat_ds.tasks.spec import TaskSpec

ROW = {"cola": {"sentence": "a b"}, "sst2": {"sentence": "a b"}, "mrpc": {"sentence1": "a", "sentence2": "b"},
       "qqp": {"question1": "a", "question2": "b"}, "stsb": {"sentence1": "a", "sentence2": "b"},
       "mnli": {"premise": "a", "hypothesis": "b"}, "qnli": {"question": "a", "sentence": "b"},
       "rte": {"sentence1": "a", "sentence2": "b"}, "wnli": {"sentence1": "a", "sentence2": "b"},
       "snli": {"premise": "a", "hypothesis": "b"}, "fever_nli": {"context": "a", "query": "b"}}  # fmt: skip


def write(folder, task, split, rows):
    path = folder / task / f"{split}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def load(spec, folder, **data):
    return load_task_data(find_task(spec), DataConfig(path=str(folder), **data))


@pytest.mark.parametrize("task", sorted(ROW))
def test_every_task_reads_files_with_the_hubs_columns(task, tmp_path):
    spec = TASKS[task]
    values = [0.0, 2.5, 5.0] if spec.kind == "regression" else list(range(len(spec.labels)))
    for split in (*spec.train, *spec.dev):
        write(tmp_path, task, split, [{**ROW[task], "label": value, "idx": i} for i, value in enumerate(values)])
    for split in spec.test:
        write(
            tmp_path,
            task,
            split,
            [{**ROW[task], "label": -1, "idx": 0}] if not spec.test_labelled else [{**ROW[task], "label": 1, "idx": 0}],
        )
    data = load(task, tmp_path)
    assert [example.label for example in data.train] == values
    assert set(data.dev) == set(spec.dev) and set(data.test) == set(spec.test)
    assert data.train[0].texts == tuple(ROW[task][column] for column in spec.text)


def test_the_label_names_of_glue_are_the_hubs():
    assert TASKS["mnli"].labels == ("entailment", "neutral", "contradiction")
    assert TASKS["rte"].labels == TASKS["qnli"].labels == ("entailment", "not_entailment")
    assert TASKS["mrpc"].labels == ("not_equivalent", "equivalent")


def test_anli_trains_on_all_rounds_or_on_one_and_is_scored_by_round(tmp_path):
    for r in ("r1", "r2", "r3"):
        for part in ("train", "dev", "test"):
            write(tmp_path, "anli", f"{part}_{r}", [{"premise": r, "hypothesis": "h", "label": 2}])
    everything, one = load("anli", tmp_path), load("anli_r2", tmp_path)
    assert [example.texts[0] for example in everything.train] == ["r1", "r2", "r3"]
    assert [example.texts[0] for example in one.train] == ["r2"]
    assert set(everything.dev) == {"dev_r1", "dev_r2", "dev_r3"} == set(one.dev)
    assert set(everything.test) == {"test_r1", "test_r2", "test_r3"} and everything.spec.test_labelled


def test_the_papers_mixture_maps_all_labels_to_the_same_three(tmp_path):
    for r in ("r1", "r2", "r3"):
        for part in ("train", "dev", "test"):
            write(tmp_path, "anli", f"{part}_{r}", [{"premise": "anli", "hypothesis": "h", "label": 0}])
    write(tmp_path, "mnli", "train", [{"premise": "mnli", "hypothesis": "h", "label": 1}])
    write(
        tmp_path,
        "snli",
        "train",
        [{"premise": "snli", "hypothesis": "h", "label": 2}, {"premise": "nobody agreed", "hypothesis": "h", "label": -1}],
    )
    write(
        tmp_path,
        "fever_nli",
        "train",
        [{"context": "fever", "query": "claim", "label": name} for name in ("SUPPORTS", "NOT ENOUGH INFO", "REFUTES")],
    )
    data = load("anli_mixture", tmp_path)
    assert [(example.texts[0], example.label) for example in data.train] == [
        *[("anli", 0)] * 40,
        ("mnli", 1),
        ("snli", 2),
        ("fever", 0),
        ("fever", 1),
        ("fever", 2),
    ]
    assert data.skipped == {"snli/train": {"no agreed label": 1}}


def test_csv_tsv_and_parquet_files_give_the_same_examples_as_jsonl(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{"sentence": 'he said "no", twice', "label": 1}, {"sentence": "so\u2028what", "label": 0}]
    write(tmp_path / "jsonl", "cola", "train", rows)
    for kind, delimiter, quoting in (("csv", ",", csv.QUOTE_MINIMAL), ("tsv", "\t", csv.QUOTE_NONE)):
        (tmp_path / kind / "cola").mkdir(parents=True)
        with (tmp_path / kind / "cola" / f"train.{kind}").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(
                file, rows[0], delimiter=delimiter, quoting=quoting, quotechar=None if kind == "tsv" else '"'
            )
            writer.writeheader()
            writer.writerows(rows)
    (tmp_path / "parquet" / "cola").mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "parquet" / "cola" / "train.parquet")
    for kind in ("jsonl", "csv", "tsv", "parquet"):
        write(tmp_path / kind, "cola", "validation", rows)
        data = load("cola", tmp_path / kind)
        assert [(e.texts[0], e.label) for e in data.train] == [(r["sentence"], r["label"]) for r in rows], kind


@pytest.mark.parametrize("folder", ["", "cola"])
def test_a_folder_of_save_to_disk_is_read(tmp_path, folder):
    import datasets

    part = datasets.Dataset.from_list([{"sentence": "x", "label": 1}])
    datasets.DatasetDict({"train": part, "validation": part}).save_to_disk(str(tmp_path / folder))
    data = load("cola", tmp_path)
    assert data.train[0].texts == ("x",) and not data.test


def test_limits_take_the_first_examples(tmp_path):
    for split in ("train", "validation"):
        write(tmp_path, "cola", split, [{"sentence": str(i), "label": 0} for i in range(9)])
    data = load("cola", tmp_path, train_limit=4, eval_limit=2)
    assert [e.texts[0] for e in data.train] == ["0", "1", "2", "3"] and len(data.dev["validation"]) == 2


def test_a_custom_task_yaml(tmp_path):
    task = tmp_path / "reviews.yaml"
    task.write_text("text: [review]\nlabel: stars\nlabels: [bad, good]\nmetrics: [accuracy, f1]\ndev: [held_out]\n")
    write(tmp_path, "reviews", "train", [{"review": "x", "stars": "good"}])
    write(tmp_path, "reviews", "held_out", [{"review": "y", "stars": 0}])
    data = load(str(task), tmp_path)
    assert data.train[0].label == 1 and data.dev["held_out"][0].label == 0


def problems(task, folder, **data):
    with pytest.raises(UserError) as caught:
        load(task, folder, **data)
    return caught.value.problems


def test_all_errors_are_named_at_once_with_file_and_line(tmp_path):
    write(
        tmp_path,
        "cola",
        "train",
        [{"sentence": "fine", "label": 1}, {"sentence": "x", "label": 7}, {"sentence": None, "label": 1}],
    )
    write(tmp_path, "cola", "validation", [{"sentense": "x", "label": 1}])
    found = problems("cola", tmp_path)
    assert [p.key.rsplit("/", 1)[1] for p in found] == ["train.jsonl:2", "train.jsonl:3", "validation.jsonl:1"]
    assert "none of 0 (unacceptable), 1 (acceptable)" in found[0].reason and "not a text" in found[1].reason
    assert "did you mean 'sentense'" in found[2].fix


def test_a_file_full_of_errors_shows_the_first_few_and_a_count(tmp_path):
    for split in ("train", "validation"):
        write(tmp_path, "cola", split, [{"sentence": "x", "label": 9}] * 20)
    found = problems("cola", tmp_path)
    assert len(found) == 12 and "15 more rows are wrong" in found[5].reason


@pytest.mark.parametrize(
    "content, reason", [("not json\n", "is not JSON"), ("[1]\n", "not a JSON object"), ("", "has no examples")]
)
def test_a_broken_or_empty_file_is_named(content, reason, tmp_path):
    write(tmp_path, "cola", "validation", [{"sentence": "x", "label": 1}])
    (tmp_path / "cola" / "train.jsonl").write_text(content)
    (problem,) = problems("cola", tmp_path)
    assert reason in problem.reason


def test_scores_out_of_range_and_texts_for_scores_are_refused(tmp_path):
    pair = {"sentence1": "a", "sentence2": "b"}
    write(tmp_path, "stsb", "train", [{**pair, "label": 5.5}, {**pair, "label": "high"}, {**pair, "label": float("nan")}])
    write(tmp_path, "stsb", "validation", [{**pair, "label": 1}])
    reasons = [p.reason for p in problems("stsb", tmp_path)]
    assert reasons == ["the score is outside [0, 5]", "the label is not a number", "the score is outside [0, 5]"]


def test_missing_folders_splits_and_tasks_are_named(tmp_path):
    assert "is not a folder" in problems("cola", tmp_path / "nowhere")[0].reason
    assert "has no folder 'cola'" in problems("cola", tmp_path)[0].reason
    write(tmp_path, "cola", "train", [{"sentence": "x", "label": 1}])
    assert problems("cola", tmp_path)[0].key == "cola/validation"
    with pytest.raises(UserError, match="did you mean 'mrpc'"):
        find_task("mrcp")


def test_numeric_label_names_are_matched_as_names(tmp_path):
    spec = TaskSpec(name="stars", text=("sentence",), labels=("1", "2", "3"), dev=("train",))
    write(tmp_path, "stars", "train", [{"sentence": "x", "label": label} for label in (1, "2", 3.0)])
    assert [e.label for e in load_task_data(spec, DataConfig(path=str(tmp_path))).train] == [0, 1, 2]


@pytest.mark.parametrize(
    "yaml, reason",
    [
        ("labels: [a, b, c]\nmetrics: [f1]", "f1 needs exactly two labels"),
        ("labels: [a, a]", "listed twice"),
        ("labels: [a, b]\ndev: []", "at least 1"),
        ("labels: [a, b]\nalso_train_on: [nosuch]", "same labels"),
        ("labels: [entailment, neutral, contradiction]\nalso_train_on: [mnli]", "number of texts"),
    ],
)
def test_a_task_yaml_that_cannot_be_trained_or_scored_is_refused(yaml, reason, tmp_path):
    (tmp_path / "own.yaml").write_text(f"text: [sentence]\n{yaml}\n")
    with pytest.raises(UserError, match=reason):
        find_task(str(tmp_path / "own.yaml"))


def test_a_wrong_task_yaml_names_its_option(tmp_path):
    task = tmp_path / "mine.yaml"
    task.write_text("text: [a]\nlabels: [x, y]\nmetric: accuracy\n")
    with pytest.raises(UserError, match="metric"):
        find_task(str(task))
    task.write_text("text: [a]\nmetrics: [accuracy]\n")
    with pytest.raises(UserError, match="for regression there are pearson, spearman"):
        find_task(str(task))
