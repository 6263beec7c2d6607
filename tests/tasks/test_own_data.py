"""A run on the user's own files without a task YAML: its labels are found in the file, its dev split is cut from it."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import datasets
import pytest

from mat_ds.errors import Problem, UserError
from mat_ds.runs.load import load_run_config, read_run_config
from mat_ds.tasks.dev_split import dev_texts
from mat_ds.tasks.example import Example
from mat_ds.tasks.examples import load_task_data
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.own_data import decision, own_name, task_of


def write(path: Path, rows: list[dict]) -> str:
    """Writes rows in the format of the path's suffix."""
    if path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    elif path.suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(str(path))
    else:
        lines = [list(rows[0]), *(list(map(str, row.values())) for row in rows)]
        path.write_text("".join(f"{','.join(line)}\n" for line in lines))
    return str(path)


def labelled(labels: list, column: str = "label") -> list[dict]:
    return [{"text": f"text {i}", column: label} for i, label in enumerate(labels)]


def problems(*overrides: str) -> list[Problem]:
    """Everything that is wrong with a run on own files: its options, its task, its data."""
    run, found = read_run_config(None, overrides)
    try:
        if run and not found:
            load_task_data(task_of(run.task, run.data), run.data)
    except UserError as error:
        found += error.problems
    return found


@pytest.mark.parametrize(
    "labels, classes",
    [
        (["good", "bad"] * 3, ("bad", "good")),
        ([10, 2, 1] * 3, ("1", "2", "10")),
        ([0.0, 1.0] * 3, ("0", "1")),
        ([True, False] * 3, ("false", "true")),
        ([0.5, 1.0, 2.5], ()),
        (list(range(100)), ()),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_words_and_few_whole_numbers_are_classes_in_order_and_all_other_numbers_scores(tmp_path, suffix, labels, classes):
    data = DataConfig(train=write(tmp_path / f"my{suffix}", labelled(labels)), dev_share=0.4)
    spec = task_of("my", data)
    assert spec.labels == classes and spec.kind == ("classification" if classes else "regression")
    loaded = load_task_data(spec, data)
    assert len(loaded.train) + len(loaded.dev["validation"]) == len(labels) and not loaded.test
    meant = {
        f"text {i}": classes.index(str(label).lower().removesuffix(".0")) if classes else label
        for i, label in enumerate(labels)
    }
    assert {e.texts[0]: e.label for e in (*loaded.train, *loaded.dev["validation"])} == meant


def test_the_decision_is_said_and_another_one_is_taken(tmp_path):
    train = write(tmp_path / "my.csv", labelled([3, 1, 2] * 5))
    found = task_of("my", DataConfig(train=train))
    assert [meaning for _, meaning in decision(found, DataConfig(train=train))] == [
        "classes 1, 2, 3; found in my.csv (data.labels=[...] decides)",
        "10% of my.csv, chosen by the texts (data.dev_share)",
    ]
    run = load_run_config(None, [f"data.train={train}", "data.labels=[]"])
    assert task_of(run.task, run.data).kind == "regression"
    run = load_run_config(None, [f"data.train={train}", "data.labels=3,2,1"])
    assert task_of(run.task, run.data).labels == ("3", "2", "1")
    run = load_run_config(None, [f"data.train={train}", "data.labels=[3, 2, 1]"])
    assert task_of(run.task, run.data).labels == ("3", "2", "1")


def test_a_column_that_numbers_its_classes_gives_them_their_names(tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["sad", "glad"])})
    rows = datasets.Dataset.from_dict({"text": list("abcd"), "label": [0, 1, 1, 0]}, features=features)
    rows.to_parquet(str(tmp_path / "my.parquet"))
    rows.save_to_disk(str(tmp_path / "saved"))
    for train in (tmp_path / "my.parquet", tmp_path / "saved"):
        data = DataConfig(train=str(train), validation=write(tmp_path / "dev.jsonl", labelled(["glad", "sad"])))
        spec = task_of("my", data)
        assert spec.labels == ("glad", "sad")
        assert [example.label for example in load_task_data(spec, data).train] == [1, 0, 0, 1]


def test_pairs_of_columns_are_read_as_they_are_named(tmp_path):
    rows = [{"title": f"t{i}", "body": f"b{i}", "stars": i % 2} for i in range(8)]
    train, dev = write(tmp_path / "train.csv", rows), write(tmp_path / "dev.tsv.jsonl", rows)
    run = load_run_config(None, [f"data.train={train}", f"data.validation={dev}", "data.text=title,body", "data.label=stars"])
    spec = task_of(run.task, run.data)
    assert spec.text == ("title", "body") and spec.label == "stars" and spec.metrics == ("accuracy",)
    loaded = load_task_data(spec, run.data)
    assert loaded.train[3] == Example(("t3", "b3"), 1) and len(loaded.dev["validation"]) == 8


def test_the_dev_split_depends_on_the_texts_alone_and_shares_none_with_training():
    drawn = random.Random(0)
    rows = [Example((f"text {drawn.randrange(400)}",), drawn.choice([0, 0, 0, 1, 2])) for _ in range(1000)]
    kept = dev_texts(rows, 0.2, stratified=True)
    for _ in range(3):
        drawn.shuffle(rows)
        assert dev_texts(rows, 0.2, stratified=True) == kept
    texts = {row.texts for row in rows}
    assert kept < texts and len(kept) == round(0.2 * len(texts))
    assert dev_texts(rows, 0.2, stratified=False) != dev_texts(rows[:500], 0.2, stratified=False)


def test_each_class_gives_its_share_and_keeps_a_text_to_train_on():
    sizes = {0: 1000, 1: 55, 2: 7, 3: 2, 4: 1}
    rows = [Example((f"{label} {i}",), label) for label, size in sizes.items() for i in range(size)]
    for share in (0.1, 0.25, 0.5, 0.9):
        cut = Counter(row.label for row in rows if row.texts in dev_texts(rows, share, stratified=True))
        for label, size in sizes.items():
            assert abs(cut[label] - share * size) <= 1 and cut[label] < size  # one too small leaves its part to another
        assert abs(cut.total() - share * len(rows)) < 1
    tiny = [Example((word,), i % 2) for i, word in enumerate("abcd")]
    assert len(dev_texts(tiny, 0.1, stratified=True)) == 1


def test_limits_keep_the_first_of_the_whole_split(tmp_path):
    data = DataConfig(train=write(tmp_path / "my.csv", labelled(["a", "b"] * 50)), dev_share=0.2)
    whole = load_task_data(task_of("my", data), data)
    assert len(whole.train) == 80 and len(whole.dev["validation"]) == 20
    assert whole.tallies["my/train"].kept == 80 and whole.tallies["my/validation"].kept == 20
    few = load_task_data(whole.spec, data.model_copy(update={"train_limit": 7, "eval_limit": 3}))
    assert few.train == whole.train[:7] and few.dev["validation"] == whole.dev["validation"][:3]
    scored = load_task_data(whole.spec.model_copy(update={"train": {}}), data)
    assert scored.dev == whole.dev and not scored.train


def test_a_task_has_the_name_of_its_file_or_folder():
    assert own_name("x/reviews v2.csv") == "reviews-v2" and own_name("x/reviews/train.jsonl") == "reviews"
    assert own_name("cola.csv") == "own-cola" and own_name("x/.csv") == "csv" and own_name("x/我.csv") == "own"


def test_a_recipe_of_another_task_lends_its_settings_and_the_options_written_down_begin_the_same_run(tmp_path):
    train = write(tmp_path / "my.csv", labelled(["a", "b"] * 9))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("task: cola\noptimizer: {lr: 0.5}\n")
    run = load_run_config(recipe, [f"data.train={train}"], demo_recipe=tmp_path / "absent.yaml")
    assert (run.task, run.optimizer.lr) == ("my", 0.5)
    recipe.write_text(json.dumps(run.model_dump(mode="json")))
    assert load_run_config(recipe, []) == run
    assert load_run_config(recipe, ["data.train=null", "task=cola"]).task == "cola"
    assert load_run_config(None, [f"data.train={train}"], demo_recipe=tmp_path / "absent.yaml").task == "my"


ROWS = [{"title": f"t{i}", "body": f"b{i}", "stars": i % 2, "note": f"n{i}"} for i in range(60)]


@pytest.mark.parametrize(
    "options, key, reason, fix",
    [
        (["data.train=absent.csv"], "data.train", "no such file", ".csv"),
        (["data.train=."], "data.train", "save_to_disk", "data.path"),
        (["data.train=my.txt"], "data.train", "format", ".jsonl"),
        (["data.train=empty.csv"], "data.train", "no rows", "a row for each example"),
        (["data.train=head.csv"], "data.train", "no rows", "a row for each example"),
        (["data.train=my.csv"], "my.csv", "lacks the column text, label", "data.text=<column>"),
        (["data.train=my.csv", "data.text=title"], "my.csv", "lacks the column label", "data.label=<column>"),
        (["data.train=my.parquet", "data.text=titel"], "my.parquet", "lacks the column titel, label", "data.text=<column>"),
        (["data.train=my.csv", "data.text=title,body,note"], "data.text", "at most 2", "or the two of a pair"),
        (["data.train=my.csv", "data.text=title", "data.label=title"], "data.label", "is a text column too", "another"),
        (["data.train=my.csv", "data.text=title", "data.label=note"], "data.label", "60 different labels", "data.labels"),
        (["data.train=one.csv"], "data.label", "nothing to learn", "data.label"),
        (["data.train=mixed.csv"], "data.label", "30 labels of mixed.csv are numbers, but 1 are not: 'n/a'", "data.labels=[]"),
        (["data.train=cases.csv"], "data.labels", "differ only in case", "rename one"),
        (["data.train=two.csv", "data.validation=three.csv"], "data.validation", "no row of two.csv has: 'c'", "data.labels"),
        (["data.train=two.csv", "data.validation=two.csv"], "data.validation", "trained on", "another file"),
        (["data.train=two.csv", "data.validation=./two.csv"], "data.validation", "trained on", "another file"),
        (["data.train=two.csv", "data.validation=three.csv", "data.dev_share=0.1"], "data.dev_share", "names a file", "one of"),
        (["data.train=two.csv", "data.dev_share=1.0"], "data.dev_share", "less than 1", "share"),
        (["data.train=two.csv", "data.dev_share=0"], "data.dev_share", "greater than 0", "share"),
        (["data.dev_share=0.1"], "data.dev_share", "belongs to data.train", "data.train=<file>"),
        (["data.validation=two.csv"], "data.validation", "belongs to data.train", "data.train=<file>"),
        (["data.train=two.csv", "data.labels=[a]"], "data.labels", "one class", "at least two"),
        (["data.train=two.csv", "data.labels=[a, x]"], "two.csv:3", "none of", "mend"),
        (["data.train=two.csv", "data.path=."], "data.path", "no prepared data", "one of the two"),
        (["data.train=two.csv", "task=cola"], "task", "is a task already", "leave task out"),
        (["data.train=two.csv", "task=x.yaml"], "task", "is not a name", "leave task out"),
        (["data.train=two.csv", "data.revision=v1"], "data.revision", "come from two.csv", "leave it out"),
        (["data.revision=../x"], "data.revision", "not the name of a commit", "tag or branch"),
        (["data.train=single.csv"], "data.dev_share", "leaves 1 of 1 examples", "data.validation"),
    ],
)
def test_wrong_files_and_options_are_one_clear_error_each(tmp_path, monkeypatch, options, key, reason, fix):
    monkeypatch.chdir(tmp_path)
    write(Path("my.csv"), ROWS), write(Path("my.parquet"), ROWS)
    Path("my.txt").write_text("a\n"), Path("empty.csv").write_text(""), Path("head.csv").write_text("text,label\n")
    for name, labels in {
        "one": ["a", "a"], "two": ["a", "b"] * 9, "three": ["a", "b", "c"], "cases": ["Good", "good"] * 9,
        "mixed": [*(i / 7 for i in range(30)), "n/a"], "single": [0.5],
    }.items():  # fmt: skip
        write(Path(f"{name}.csv"), labelled(labels))
    if key == "data.dev_share" and "single.csv" in options[0]:
        options = [*options, "data.labels=[]"]
    found = problems(*options)
    assert key in [problem.key for problem in found], found
    first = next(problem for problem in found if problem.key == key)
    assert reason in first.reason and fix in first.fix, first


def test_where_the_classes_are_given_a_file_is_not_read_to_its_end_to_find_them(monkeypatch):
    rows = iter([("my.csv:2", {"text": "a"}), *((f"my.csv:{i}", {"text": "a", "label": "x"}) for i in range(3, 9))])
    monkeypatch.setattr("mat_ds.tasks.own_data.read_file", lambda *_: rows)
    assert task_of("my", DataConfig(train="my.csv", labels=["y", "x"])).labels == ("y", "x")
    assert len(list(rows)) == 5
