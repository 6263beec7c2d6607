"""Descriptions of tasks in YAML: valid names, type errors with an example, and contradictions that are refused."""

import json

import pytest

from mat_ds.artifacts.described import FILE, Description, read_description, write_description
from mat_ds.config.yaml_files import as_yaml
from mat_ds.errors import UserError
from mat_ds.tasks.contradictions import contradictions
from mat_ds.tasks.registry import TASKS, find_task

GOOD = {"text": ["sentence"], "labels": ["no", "yes"]}
SCORES = {"text": ["sentence"], "metrics": ["pearson"]}


def write(folder, tree, name="own.yaml"):
    path = folder / name
    path.write_text(tree if isinstance(tree, str) else as_yaml(tree))
    return str(path)


def problems(folder, tree, name="own.yaml"):
    path = write(folder, tree, name)
    with pytest.raises(UserError) as caught:
        find_task(path)
    return {problem.key.removeprefix(f"{path}: "): problem for problem in caught.value.problems}


@pytest.mark.parametrize("name", sorted(TASKS))
def test_no_built_in_task_contradicts_itself(name):
    assert not list(contradictions(TASKS[name], name)) and find_task(name) is TASKS[name]


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "/etc/x", ".hidden", "..", ".", "", "a b", "a\nb", "x" * 101, "é", "a\0", "-/-", "con:1", "a\\b"]
)
@pytest.mark.parametrize("where", ["name", "train", "dev", "test", "submission file", "submission split", "also_train_on"])
def test_a_name_that_would_leave_its_folder_is_refused(name, where, tmp_path):
    tree = {
        "name": {"name": name},
        "submission file": {"submission": {"test": name}},
        "submission split": {"test": [name], "submission": {name: "x.tsv"}},
    }.get(where, {where: [name]})
    found = problems(tmp_path, {**GOOD, **tree})
    assert where.split()[0] in found and "letters, digits" in "".join(str(problem) for problem in found.values())


def test_a_file_with_an_invalid_name_must_give_the_tasks_name(tmp_path):
    found = problems(tmp_path, GOOD, "my task.yaml")
    assert found["name"].value == "my task" and "name: <name>" in found["name"].fix
    assert find_task(write(tmp_path, {"name": "mine", **GOOD}, "my task.yaml")).name == "mine"


@pytest.mark.parametrize(
    ("tree", "key", "example"),
    [
        ({"labels": [1, 2]}, "labels", 'labels: ["no", "yes"]'),
        ({"labels": [True, False]}, "labels", 'labels: ["no", "yes"]'),
        ({"labels": "yes"}, "labels", 'labels: ["no", "yes"]'),
        ({"labels": {"no": 0}}, "labels", 'labels: ["no", "yes"]'),
        ({"text": []}, "text", "text: [sentence]"),
        ({"text": ["a", "b", "c"]}, "text", "text"),
        ({"text": None}, "text", "text: [sentence]"),
        ({"label": 3}, "label", "label: label"),
        ({"label_map": ["a"]}, "label_map", "label_map: {"),
        ({"label_map": {"x": 1}}, "label_map", "label_map: {"),
        ({"metrics": ["f2"]}, "metrics", "metrics"),
        ({"metrics": "acuracy"}, "metrics", "did you mean 'accuracy'?"),
        ({"metrics": ["Accuracy"]}, "metrics", "did you mean 'accuracy'?"),
        ({"validation": "dev"}, "validation", "`dev: [validation]`"),
        ({"columns": ["a"]}, "columns", "`text: [sentence]`"),
        ({"test_labelled": 1}, "test_labelled", "test_labelled: true"),
        ({"hub": ["a"]}, "hub", "hub: nyu-mll/glue"),
        ({"submission": "x.tsv"}, "submission", "submission: {test: MyTask.tsv}"),
        ({"range": [0]}, "range", "range: [0, 5]"),
        ({"range": "0-5"}, "range", "range: [0, 5]"),
        ({"range": [0, float("nan")]}, "range", "range: [0, 5]"),
        ({"range": [0, float("inf")]}, "range", "range: [0, 5]"),
        ({"metricz": ["a"]}, "metricz", "did you mean 'metrics'?"),
        ({"generate": "os.system"}, "generate", "known"),
    ],
)
def test_a_value_of_another_type_is_refused_with_an_example(tree, key, example, tmp_path):
    found = problems(tmp_path, {**GOOD, **tree})
    assert set(found) == {key} and example in found[key].fix


def test_a_lone_name_is_a_list_of_one(tmp_path):
    lone = {"text": "sentence", "train": "train", "dev": "dev", "test": "test", "metrics": "f1", "labels": ["no", "yes"]}
    listed = {**lone, **{key: [lone[key]] for key in ("text", "train", "dev", "test", "metrics")}}
    assert find_task(write(tmp_path, lone)) == find_task(write(tmp_path, listed))


def test_the_example_in_an_error_never_repeats_the_wrong_value(tmp_path):
    for tree in ({"metrics": ["acc"]}, {"test": [".."]}, {"train": ["train", "train"]}, {"text": ["a", "b", "c"]}):
        ((key, problem),) = problems(tmp_path, {**GOOD, **tree}).items()
        assert json.dumps(tree[key]) not in problem.fix and f"{key}: [" in problem.fix


def test_missing_and_wrong_keys_are_reported_together(tmp_path):
    found = problems(tmp_path, {"labels": [0, 1], "labell": "x", "label": 2})
    assert set(found) == {"text", "labels", "labell", "label"} and "text: [sentence]" in found["text"].fix


@pytest.mark.parametrize(
    ("tree", "key"),
    [
        ({"dev": ["train"]}, "dev"), ({"train": ["validation"]}, "dev"), 
        ({"test": ["train"]}, "test"), ({"dev": ["a", "a"]}, "dev"), ({"test": ["a", "a"]}, "test"),
        ({"label": "sentence"}, "label"), ({"text": ["a", "a"]}, "text"), ({"text": ["a", "label"]}, "label"),
        ({"text": [""]}, "text, label"), ({"label": " "}, "text, label"),
        ({"range": [0, 5]}, "range"), ({"label_map": {"x": "maybe"}}, "label_map"), ({"label_map": {"no": "yes"}}, "label_map"),
        ({"submission": {"tset": "x.tsv"}}, "submission"), ({"test": [], "submission": {"test": "x.tsv"}}, "submission"),
        ({"test": ["a", "b"], "submission": {"a": "x.tsv", "b": "X.tsv"}}, "submission"),
        ({"test": ["a", "b"], "submission": {"a": "b.tsv"}}, "submission"),
        ({"submission": {"test": "validation.jsonl"}}, "submission"),
        ({"hub_columns": {"sentense": "x"}}, "hub_columns"), ({"hub_columns": {"sentence": "x", "label": "x"}}, "hub_columns"),
        ({"hub_columns": {"sentence": "label"}}, "hub_columns"), ({"hub_columns": {"sentence": ""}}, "hub_columns"),
        ({"labels": ["a", ""]}, "labels"), ({"labels": ["a", " a"]}, "labels"), ({"labels": ["a", "A"]}, "labels"),
        ({"labels": ["a", "b\x1b[0m"]}, "labels"), ({"labels": ["a", "b\u202ec"]}, "labels"),
        ({"labels": ["a", "b\nc"]}, "labels"), ({"labels": ["é", "e\u0301"]}, "labels"),
        ({"labels": ["no", "no\u200b"]}, "labels"), ({"labels": ["a b", "a\xa0b"]}, "labels"),
        ({"label_map": {"No": "yes"}}, "label_map"),
        ({"label_map": {"x": "no", "X": "yes"}}, "label_map"), ({"also_train_on": ["mnli"]}, "also_train_on"),
        ({"labels": ["-1", "1"], "skip_unlabelled": True}, "skip_unlabelled"), ({"hub_config": "x"}, "hub_config"),
        ({"hub": "../x"}, "hub"), ({"hub": "/etc"}, "hub"), ({"hub": "https://h/x"}, "hub"), ({"hub": "hf://d/x"}, "hub"),
        ({"hub": "a/b/c"}, "hub"), ({"hub": ""}, "hub"), ({"hub": "a/b", "hub_config": "../x"}, "hub_config"),
        ({"metrics": ["accuracy", "accuracy"]}, "metrics"), ({"labels": ["1", "1.0"]}, "labels"),
        ({"label_map": {"0": "no", "0.0": "yes"}}, "label_map"), 
        ({"labels": ["1", "2"], "label_map": {"1.0": "2"}}, "label_map"),
    ],
)  # fmt: skip
def test_contradictory_descriptions_are_refused(tree, key, tmp_path):
    found = problems(tmp_path, {**GOOD, **tree})
    assert key in found and found[key].reason and found[key].fix


@pytest.mark.parametrize(
    ("tree", "key"),
    [
        ({"range": [5, 0]}, "range"),
        ({"range": [3, 3]}, "range"),
        ({"label_map": {"x": "y"}}, "label_map"),
        ({"submit_names": True}, "submit_names"),
    ],
)
def test_contradictory_regressions_are_refused(tree, key, tmp_path):
    assert set(problems(tmp_path, {**SCORES, **tree})) == {key}


def test_a_usual_description_is_read(tmp_path):
    spec = find_task(
        write(
            tmp_path,
            "text: [a, b]\nlabels: [no, yes]\nlabel_map: {0: no, 1: yes, true: yes, yes: yes}\n"
            "hub: x/y\nhub_columns: {a: b, b: a}\ndev: [test]\n",
        )
    )
    assert spec.label_map == {"0": "no", "1": "yes", "true": "yes", "yes": "yes"} and spec.name == "own"


@pytest.mark.parametrize(
    "text",
    ["", "[", "[]", "3", "null", '"x"', "{}", '{"task": {}}', '{"task": 3, "max_length": 8}', "[" * 50_000, "\0", '{"task": ',
     '{"task": {"name": "../x", "text": ["a"], "labels": ["a", "b"]}, "max_length": 8}',
     '{"task": {"name": "x", "text": ["a"], "labels": ["a", "b"], "test": ["../x"]}, "max_length": 8}',
     '{"task": {"name": "x", "text": ["a"], "labels": ["a", "b\\u001b"]}, "max_length": 8}',
     '{"task": {"name": "x", "text": ["a"], "labels": ["a", "b"]}, "max_length": "8"}',
     '{"task": {"name": "x", "text": ["a"], "labels": ["a", "b"]}, "max_length": true}',
     '{"task": {"name": "x", "text": ["a"], "labels": ["a", "b"]}, "max_length": -1}',
     '{"task": {"name": "x", "text": ["a"], "labels": ["a", "b"]}, "max_length": 1' + "0" * 5000 + "}",
     '{"task": {"name": "x", "text": ["a"], "labels": [1, 2], "generate": "f"}, "max_length": 8}'],
)  # fmt: skip
def test_a_model_with_an_invalid_description_is_refused(text, tmp_path):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UserError) as caught:
        read_description(tmp_path)
    assert str(tmp_path / FILE) in str(caught.value) and "\x1b" not in str(caught.value)


@pytest.mark.parametrize("name", ["demo", "cola", "stsb", "mnli", "anli_mixture"])
def test_the_description_in_a_model_folder_is_read_back(name, tmp_path):
    write_description(tmp_path, Description(TASKS[name], 77))
    assert read_description(tmp_path) == Description(TASKS[name], 77)
    assert json.loads((tmp_path / FILE).read_text())["max_length"] == 77
