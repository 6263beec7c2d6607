"""A label means the same class in every file format; other values are never taken for labels."""

import csv
import json
from decimal import Decimal

import pyarrow
import pyarrow.parquet
import pytest

from mat_ds.errors import UserError
from mat_ds.tasks.example import Example
from mat_ds.tasks.examples import load_task_data
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.rows import is_unlabelled, make_example
from mat_ds.tasks.spec import TaskSpec

SENTIMENT = {"labels": ("negative", "positive")}
SWAPPED = {**SENTIMENT, "label_map": {"0": "positive", "1": "negative"}}
STARS = {"labels": ("1", "2", "3", "4", "5")}


def task(**settings):
    return TaskSpec(name="own", text=("sentence",), dev=("train",), test=(), **settings)


def meaning(spec, value):
    found = make_example(spec, {"sentence": "x", "label": value}, labelled=True)
    return found.label if isinstance(found, Example) else None


def write(folder, kind, label):
    """Writes one row to a file of the given format."""
    folder = folder / "own"
    folder.mkdir(parents=True, exist_ok=True)
    row = {"sentence": "lovely", "label": label}
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), folder / "train.parquet")
    elif kind == "dictionary":
        column = pyarrow.array([label]).dictionary_encode()
        pyarrow.parquet.write_table(pyarrow.table({"sentence": ["lovely"], "label": column}), folder / "train.parquet")
    elif kind == "save_to_disk":
        import datasets

        datasets.Dataset.from_list([row]).save_to_disk(str(folder / "train"))
    elif kind in ("jsonl", "json"):
        text = json.dumps(row) if kind == "jsonl" else json.dumps([row], indent=1)
        (folder / f"train.{kind}").write_text(text + "\n")
    else:
        with (folder / f"train.{kind}").open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if kind == "tsv" else ",")
            writer.writerows([row.keys(), row.values()])


# The task's settings, a value, and its class; None: not a label.
MEANINGS = [
    (SWAPPED, 0, 1), (SWAPPED, 1.0, 0), (SWAPPED, "positive", 1), (SWAPPED, 2, None), (SWAPPED, "0", 1),
    (SENTIMENT, 0, 0), (SENTIMENT, 1.0, 1), (SENTIMENT, True, None), (SENTIMENT, 0.5, None), (SENTIMENT, -1, None),
    (STARS, 0, None), (STARS, 1, 0), (STARS, 5.0, 4), (STARS, "3", 2), (STARS, 6, None),
    ({"labels": ("0", "many")}, 1, None), ({"labels": ("0", "many")}, 0, 0), ({"labels": ("1.0", "2.0")}, 2, 1),
    ({"labels": ("0.5", "1.5")}, 1.5, 1), ({"labels": ("-1", "0", "1")}, -1, 0), ({"labels": ("-1", "0", "1")}, 1.0, 2),
    ({**SENTIMENT, "label_map": {"1": "negative", "2": "positive"}}, 0, None),
    ({**SENTIMENT, "label_map": {"1": "negative", "2": "positive"}}, 1, 0),
    ({**SENTIMENT, "label_map": {"good": "positive"}}, 0, 0), ({**SENTIMENT, "label_map": {"good": "positive"}}, "good", 1),
    ({**SENTIMENT, "label_map": {"True": "positive", "False": "negative"}}, True, 1),
    ({"labels": ("01", "02")}, 1, None), ({"labels": ("01", "02")}, "01", 0), ({"labels": (".25", "+1")}, 1, None),
    ({"labels": ("1 star", "2 stars")}, 1, None), ({"labels": ("1 star", "2 stars")}, "2 stars", 1),
    ({"labels": ("grade_1", "grade_2")}, 0, None), ({"labels": ("１", "２")}, 1, None),
    ({"labels": ("LABEL_0", "LABEL_1")}, 1, 1), ({"labels": ("covid19", "flu")}, 1, 1),
    ({**SENTIMENT, "label_map": {"1st": "negative"}}, 1, None), ({**SENTIMENT, "label_map": {"+1": "positive"}}, 0, None),
    ({"labels": ("true", "false")}, False, 1), ({"labels": ("False", "True")}, True, 1),
]  # fmt: skip
KINDS = ("jsonl", "json", "csv", "tsv", "parquet", "dictionary", "save_to_disk")


@pytest.mark.parametrize("kind", KINDS)
def test_a_label_means_the_same_in_every_file_format(kind, tmp_path):
    for i, (settings, label, expected) in enumerate(MEANINGS):
        folder = tmp_path / str(i)
        write(folder, kind, label)
        if expected is None:
            with pytest.raises(UserError, match="the label is none of"):
                load_task_data(task(**settings), DataConfig(path=str(folder)))
        else:
            (example,) = load_task_data(task(**settings), DataConfig(path=str(folder))).train
            assert example.label == expected, (settings, label)


@pytest.mark.parametrize("text", ["1", "1.0", "1e0", " 1 ", "1.000", "10e-1", "1\r"])
def test_a_number_is_the_same_label_in_every_spelling(text):
    assert meaning(task(**SENTIMENT), text) == 1 and meaning(task(**STARS), text) == 0
    assert meaning(task(**SWAPPED), text) == 0


NO_LABELS = [
    "01", "1_0", "+1", "１", "²", "0x1", "1.", ".0", "1e400", "9" * 5000, 10**5000, 1e300, "nan", "", " ", "None", None, [1],
    {"a": 1}, b"1", float("nan"), float("inf"), "1,0", "true", True, "1 0",
]  # fmt: skip


@pytest.mark.parametrize("value", NO_LABELS, ids=range(len(NO_LABELS)))
def test_texts_that_only_resemble_numbers_are_not_labels(value):
    assert meaning(task(**SENTIMENT), value) is None and meaning(task(**STARS), value) is None


def test_a_literal_label_name_wins_over_its_reading_as_a_number():
    codes = task(labels=("01", "1", "001"))
    assert [meaning(codes, value) for value in ("01", "1", "001", 1, 1.0, "1.0")] == [0, 1, 2, 1, 1, 1]
    alike = task(labels=("1", "1.0"))
    assert [meaning(alike, value) for value in ("1", "1.0", 1)] == [0, 1, 0] and meaning(alike, "1e0") == 0


def test_exact_decimals_are_numbers_and_large_ones_keep_their_last_digit():
    assert meaning(task(**SENTIMENT), Decimal("1.00")) == 1
    large = task(labels=(str(2**60), str(2**60 + 1)))
    assert [meaning(large, value) for value in (2**60, 2**60 + 1, str(2**60 + 1))] == [0, 1, 1]
    assert meaning(large, float(2**60)) is None, "a float does not know which of the two"


def test_no_agreed_label_is_minus_one_in_every_form_unless_that_is_a_label():
    spec = task(labels=("a", "b"), skip_unlabelled=True)
    assert all(is_unlabelled(spec, {"label": value}) for value in (-1, -1.0, "-1", "-1.0", "-"))
    assert not any(is_unlabelled(spec, {"label": value}) for value in (0, "1", None, True, "--"))
    assert not is_unlabelled(task(labels=("-1", "0"), skip_unlabelled=True), {"label": -1.0})


def test_a_refusal_lists_the_labels_with_numbers_only_if_these_are_accepted():
    found = make_example(task(**STARS), {"sentence": "x", "label": 0}, labelled=True)
    assert found.reason == "the label is none of 1, 2, 3, 4, 5"
    many = make_example(task(labels=tuple(f"l{i}" for i in range(5000))), {"sentence": "x", "label": "?"}, labelled=True)
    assert "0 (l0)" in many.reason and "and 4980 more" in many.reason and len(many.reason) < 300


@pytest.mark.parametrize(
    "value, score", [("2.5", 2.5), (" 3 ", 3.0), (".5", 0.5), ("1e0", 1.0), (4, 4.0), ("+1", 1.0), ("05", 5.0)]
)
def test_any_finite_number_is_a_score(value, score):
    assert meaning(task(metrics=("pearson",)), value) == score


@pytest.mark.parametrize("value", ["1_0", "٣", "", "nan", "-inf", "five", True, "1,5", "0x1p3"])
def test_anything_else_is_not_a_score(value):
    assert meaning(task(metrics=("pearson",)), value) is None
