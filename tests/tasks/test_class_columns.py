"""A label column that numbers its classes in another order is read by class names."""

import datasets
import pytest

from mat_ds.tasks.spec import TaskSpec
from tests.tasks.test_bad_rows import lines, write
from tests.tasks.test_sources import SST2, load, refused, rows


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "sst2/validation.jsonl", lines(*rows(100)))
    return tmp_path


def saved_by_datasets(folder, kind, features, content):
    data = datasets.Dataset.from_list(content, features=datasets.Features(features))
    if kind == "saved":
        data.save_to_disk(str(folder / "sst2" / "train"))
    else:
        data.to_parquet(str(folder / "sst2" / "train.parquet"))


@pytest.mark.parametrize("kind", ["saved", "parquet"])
@pytest.mark.parametrize(
    "names, expected",
    [
        (["negative", "positive"], [0, 1]),
        (["positive", "negative"], [1, 0]),
        (["LABEL_0", "LABEL_1"], [0, 1]),
        (["0", "1"], [0, 1]),
        (["positive", "neutral", "negative"], None),
        (["good", "bad"], None),
        (["1", "0"], None),
        (["1", "2"], None),
        (["NEG", "POS"], [0, 1]),
        (["unused", "positive", "negative"], None),
    ],
)
def test_numbered_classes_are_matched_by_their_names_or_refused(kind, names, expected, folder):
    spec = SST2.model_copy(update={"label_map": {"NEG": "negative", "POS": "positive"}})
    features = {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    saved_by_datasets(folder, kind, features, rows(0))
    if expected:
        assert [example.label for example in load(folder, spec).train] == expected
    else:
        assert "none of" in refused(folder, spec)


@pytest.mark.parametrize("kind", ["saved", "parquet"])
@pytest.mark.parametrize(
    "names, expected",
    [
        (["0", "1"], [0.0, 1.0]),
        (["5", "3"], [5.0, 3.0]),
        (["0.5", "+1"], [0.5, 1.0]),
        (["1 star", "2 stars"], None),
        (["low", "high"], None),
        (["nan", "1"], None),
        (["1", ""], None),
    ],
)
def test_numbered_classes_are_scores_only_if_their_names_are_numbers(kind, names, expected, folder):
    spec = TaskSpec(name="sst2", text=("sentence",), metrics=("pearson",), dev=("train",), test=())
    features = {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    saved_by_datasets(folder, kind, features, rows(0))
    if expected:
        assert [example.label for example in load(folder, spec).train] == expected
    else:
        assert "are not scores" in refused(folder, spec)


@pytest.mark.parametrize("kind", ["saved", "parquet"])
def test_classes_with_numbers_as_names_and_rows_without_a_label(kind, folder):
    stars = SST2.model_copy(update={"labels": ("1", "2", "3"), "skip_unlabelled": True, "dev": ("train",)})
    features = {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["3", "2", "1"])}
    content = [{"sentence": "a", "label": label} for label in (0, 2, -1, 1)]
    saved_by_datasets(folder, kind, features, content)
    data = load(folder, stars)
    assert [example.label for example in data.train] == [2, 0, 1] and data.skipped == {"sst2/train": {"no agreed label": 1}}
