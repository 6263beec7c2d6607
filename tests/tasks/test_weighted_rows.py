"""Rows with weights, and labels that are probabilities: read alike from every kind of file, prepared, and refused if wrong."""

import json

import pyarrow
import pyarrow.parquet
import pytest
import torch

from mat_ds.tasks.contradictions import contradictions
from mat_ds.tasks.loader import TrainLoader
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.spec import TaskSpec
from mat_ds.tasks.stored import store_examples, stored_examples
from tests.tasks.test_bad_rows import lines, load, refused, write

SPEC = TaskSpec(name="own", text=("text",), labels=("no", "yes"), weight="trust", test=())
ROWS = [
    {"text": "a", "label": "yes", "trust": 2},
    {"text": "b", "label": [0.25, 0.75], "trust": 0.5},
    {"text": "c", "label": {"yes": 0.125, "no": 0.875}, "trust": 0},
    {"text": "d", "label": 0, "trust": 1},
]
READ = [(1, 2.0, None), (1, 0.5, (0.25, 0.75)), (0, 0.0, (0.875, 0.125)), (0, 1.0, None)]
DEV = lines({"text": "a", "label": 1})


def csv(rows):
    cells = [
        [row["text"], row["label"] if isinstance(row["label"], str | int) else json.dumps(row["label"]), row["trust"]]
        for row in rows
    ]
    quoted = [[f'"{str(cell).replace(chr(34), chr(34) * 2)}"' for cell in row] for row in cells]
    return "".join(",".join(row) + "\n" for row in [["text", "label", "trust"], *quoted]).encode()


def found(folder):
    return [(example.label, example.weight, example.probabilities) for example in load(SPEC, folder).train]


@pytest.mark.parametrize("name, content", [("train.jsonl", lines(*ROWS)), ("train.csv", csv(ROWS))])
def test_weights_and_probabilities_are_read_and_dev_needs_neither(name, content, tmp_path):
    write(tmp_path, f"own/{name}", content)
    write(tmp_path, "own/validation.jsonl", DEV)
    assert found(tmp_path) == READ
    assert [(example.label, example.weight) for example in load(SPEC, tmp_path).dev["validation"]] == [(1, 1.0)]


@pytest.mark.parametrize("form", ["list", "map"])
def test_columns_of_parquet_hold_lists_or_maps_of_probabilities(form, tmp_path):
    labels = [[0.25, 0.75], [0.875, 0.125]] if form == "list" else [{"yes": 0.75, "no": 0.25}, {"yes": 0.125, "no": 0.875}]
    (tmp_path / "own").mkdir()
    table = pyarrow.table({"text": ["a", "b"], "label": labels, "trust": [1.0, 0.5]})
    pyarrow.parquet.write_table(table, tmp_path / "own" / "train.parquet")
    write(tmp_path, "own/validation.jsonl", DEV)
    assert found(tmp_path) == [(1, 1.0, (0.25, 0.75)), (0, 0.5, (0.875, 0.125))]


def test_training_batches_carry_them(tmp_path):
    write(tmp_path, "own/train.jsonl", lines(*ROWS))
    write(tmp_path, "own/validation.jsonl", DEV)
    examples = load(SPEC, tmp_path).train
    collate = lambda some, device: ({}, torch.tensor([example.label for example in some]))  # noqa: E731
    loader = TrainLoader(examples, collate, 4, 2, DataConfig(), 0, 0, 1, torch.device("cpu"))
    batches = sorted(loader.micro_batches(0), key=lambda batch: batch.index)
    order = [example.label for batch in batches for example in ()] or torch.cat([batch.labels for batch in batches]).tolist()
    rows = {}
    for batch in batches:
        weights = torch.ones(2) if batch.weights is None else batch.weights
        certain = torch.eye(2)[batch.labels] if batch.probabilities is None else batch.probabilities
        rows |= {weight: row for weight, row in zip(weights.tolist(), certain.tolist(), strict=True)}
    assert rows == {2.0: [0, 1], 0.5: [0.25, 0.75], 0.0: [0.875, 0.125], 1.0: [1, 0]} and len(order) == 4


def test_a_smaller_sum_than_one_by_rounding_is_made_one(tmp_path):
    write(tmp_path, "own/train.jsonl", lines({"text": "a", "label": [0.3333, 0.6666], "trust": 1}))
    write(tmp_path, "own/validation.jsonl", DEV)
    ((_, _, probabilities),) = found(tmp_path)
    assert sum(probabilities) == pytest.approx(1, abs=1e-15) and probabilities[1] == pytest.approx(2 / 3, abs=1e-4)


@pytest.mark.parametrize(
    "label, reason",
    [
        ([0.5, 0.4], "its values sum to 0.9, not to 1"),
        ([1.0], "it is a list of 1"),
        ([0.2, 0.3, 0.5], "it is a list of 3"),
        ([-0.5, 1.5], "its values are not all numbers from 0 to 1"),
        (["0.5", "0.5"], "its values are not all numbers from 0 to 1"),
        ([True, False], "its values are not all numbers from 0 to 1"),
        ([float("nan"), 1.0], "its values are not all numbers from 0 to 1"),
        ({"yes": 1.0}, "it lacks no"),
        ({"yes": 0.5, "on": 0.5}, "it names 'on'"),
        ({"yes": 0.5, "no": 0.2, "1": 0.3}, "it names '1', which is named already"),
        ("[0.5, 0.5", "it is not JSON"),
    ],
)
def test_probabilities_that_cannot_be_used_are_wrong_labels(label, reason, tmp_path):
    write(tmp_path, "own/train.jsonl", lines(ROWS[0], {"text": "b", "label": label, "trust": 1}))
    write(tmp_path, "own/validation.jsonl", DEV)
    said = f"the label is none of 0 (no), 1 (yes), nor a probability for each: {reason}"
    assert refused(SPEC, tmp_path) == [("train.jsonl:2", said)]


@pytest.mark.parametrize("weight", [-1, None, "much", True, float("inf"), float("nan"), [1]])
def test_a_weight_that_is_none_is_a_bad_row(weight, tmp_path):
    write(tmp_path, "own/train.jsonl", lines(ROWS[0], {"text": "b", "label": 1, "trust": weight}))
    write(tmp_path, "own/validation.jsonl", DEV)
    assert refused(SPEC, tmp_path) == [("train.jsonl:2", "trust is not a weight: a number, 0 or more")]


def test_a_file_without_the_column_of_weights_is_refused(tmp_path):
    write(tmp_path, "own/train.jsonl", lines({"text": "a", "label": 1}))
    write(tmp_path, "own/validation.jsonl", DEV)
    assert refused(SPEC, tmp_path) == [("train.jsonl:1", "lacks the column trust")]


@pytest.mark.parametrize("column", ["text", "label", " "])
def test_the_column_of_weights_is_one_of_its_own(column):
    (problem,) = contradictions(SPEC.model_copy(update={"weight": column}), "own.yaml")
    assert problem.value == column


class Tokenizer:
    def __call__(self, texts, **_):
        return {"input_ids": [[5, 6] for _ in texts], "attention_mask": [[1, 1] for _ in texts]}


def test_prepared_data_hold_both_and_plain_data_have_no_column_for_them(tmp_path):
    write(tmp_path, "own/train.jsonl", lines(*ROWS))
    write(tmp_path, "own/validation.jsonl", DEV)
    data = load(SPEC, tmp_path)
    for name, examples in (("train", data.train), ("dev", data.dev["validation"])):
        store_examples(tmp_path / name, examples, Tokenizer(), 8, SPEC)
        kept = stored_examples([tmp_path / name], None, True, SPEC)
        assert [example.content for example in kept] == [example.content for example in examples]
        assert [example.content[1:] for example in kept.without_texts()] == [example.content[1:] for example in examples]
        assert kept.soft == (name == "train") and kept[0].tokens == {"input_ids": [5, 6]}
