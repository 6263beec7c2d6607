"""A split is read from the files that common tools write, from one source only; errors name the files that exist."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from mat_ds.errors import UserError
from mat_ds.tasks.examples import load_task_data
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.registry import TASKS
from tests.tasks.test_bad_rows import lines, write

SST2 = TASKS["sst2"]
NAMES = ["positive", "negative"]


def rows(first, count=2):
    return [{"sentence": f"text {first + i}", "label": (first + i) % 2} for i in range(count)]


def parquet(path, content, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), path, **options)


def load(folder, spec=SST2, **data):
    return load_task_data(spec, DataConfig(path=str(folder), **data))


def refused(folder, spec=SST2):
    with pytest.raises(UserError) as caught:
        load(folder, spec)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "sst2/validation.jsonl", lines(*rows(100)))
    return tmp_path


@pytest.mark.parametrize("pattern", ["train-{:05d}-of-00003.parquet", "train-{:05d}-of-00003-0a1b2c3d4e5f6071.parquet"])
def test_the_shards_of_a_split_are_read_in_order(pattern, folder):
    for part in (2, 0, 1):
        parquet(folder / "sst2" / pattern.format(part), rows(10 * part))
    assert [example.texts[0] for example in load(folder).train] == [f"text {i}" for i in (0, 1, 10, 11, 20, 21)]
    assert len(load(folder, train_limit=3).train) == 3


def test_shards_may_be_text_files_and_missing_or_duplicate_ones_are_named(folder):
    for part in (0, 1, 3):
        write(folder, f"sst2/train-{part:05d}-of-00004.jsonl", lines(*rows(part)))
    message = refused(folder)
    assert "part 00002 is missing" in message and "train-*-of-00004.jsonl = '3 of 4 parts'" in message
    write(folder, "sst2/train-00002-of-00004.jsonl", lines(*rows(2)))
    assert len(load(folder).train) == 8
    write(folder, "sst2/train-00002-of-00004-abc.jsonl", lines(*rows(2)))
    assert "is the same part of the split as train-00002-of-00004" in refused(folder)
    write(folder, "sst2/test-00000-of-999999999.parquet", b"")
    assert "part 00001, 00002" in refused(folder), "of a split that need not be there, at once"


def test_splits_that_were_saved_one_by_one_are_read(folder):
    import datasets

    datasets.Dataset.from_list(rows(0, 5)).save_to_disk(str(folder / "sst2" / "train"), num_shards=2)
    assert [example.label for example in load(folder).train] == [0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(rows(0), indent=2),
        json.dumps(rows(0)),
        "\ufeff \n" + json.dumps(rows(0)),
        lines(*rows(0)).decode(),
    ],
)
def test_a_json_file_may_hold_an_array_or_lines(content, folder):
    write(folder, "sst2/train.json", content.encode())
    assert [(example.texts[0], example.label) for example in load(folder).train] == [("text 0", 0), ("text 1", 1)]


@pytest.mark.parametrize(
    "content, reason",
    [
        ('[{"sentence": "a", "label": 1},\n {', "is not JSON: Expecting property name enclosed in double quotes (line 2)"),
        ("[" * 10**6, "is not JSON"),
        ("[]", "has no examples"),
        ("[1]", "train.json row 0 = 1"),
        ("", "has no examples"),
        ('{"sentence": {"0": "a"}, "label": {"0": 1}}', "sentence is not a text"),
        ('"text"', "is not a JSON object"),
        ('[{"sentence": "a", "label": 1, "label": 0}]', "'label' twice, as 1 and as 0"),
        ("[NaN]", "is not a JSON object"),
    ],
)
def test_other_json_files_are_refused_with_the_position(content, reason, folder):
    write(folder, "sst2/train.json", content.encode())
    assert reason in refused(folder)


@pytest.mark.parametrize(
    "more", ["train.csv", "train.CSV", "train.JSONL", "train.json", "train-00000-of-00001.parquet", "train/", "dict"]
)
def test_two_sources_of_one_split_are_both_named(more, folder):
    import datasets

    write(folder, "sst2/train.jsonl", lines(*rows(0)))
    saved = datasets.Dataset.from_list(rows(0))
    if more == "dict":
        datasets.DatasetDict(train=saved).save_to_disk(str(folder))
    elif more == "train/":
        saved.save_to_disk(str(folder / "sst2" / more))
    elif more.endswith(".parquet"):
        parquet(folder / "sst2" / more, rows(0))
    else:
        write(folder, f"sst2/{more}", b"sentence,label\na,1\n")
        assert (folder / "sst2" / more).exists() and (folder / "sst2" / "train.jsonl").exists()
    message = refused(folder)
    assert "each hold the whole split" in message and "train.jsonl" in message
    assert {"dict": f"{folder}/train/"}.get(more, more.replace("00000", "*")) in message


def test_if_a_split_is_missing_the_existing_files_are_named(folder):
    for name in ("dev.tsv", "train.jsonl.gz", "TRAIN.jsonl", "training.jsonl", "train.xlsx"):
        write(folder, f"sst2/{name}", b"x")
    message = refused(folder)
    assert "there is no such split" in message and all(name in message for name in ("TRAIN.jsonl", "dev.tsv", "train.jsonl.gz"))
    assert "has no folder 'cola'" in refused(folder, TASKS["cola"]) and "holds sst2/" in refused(folder, TASKS["cola"])


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("again", ["label", "label ", "\ufefflabel"])
def test_duplicate_columns_and_keys_are_refused(kind, again, folder):
    path = folder / "sst2" / f"train.{kind}"
    if kind == "parquet":
        table = pyarrow.Table.from_arrays(
            [pyarrow.array(["a"]), pyarrow.array([1]), pyarrow.array([0])], ["sentence", "label", again]
        )
        pyarrow.parquet.write_table(table, path)
    elif kind == "jsonl":
        again = "label"
        path.write_text('{"sentence": "a", "label": 1, "label": 0}\n')
    else:
        mark = "," if kind == "csv" else "\t"
        path.write_text(f"sentence{mark}label{mark}{again}\na{mark}1{mark}0\n")
    message = refused(folder)
    assert "'label' twice, as 1 and as 0" in message if kind == "jsonl" else "columns 2 and 3 have one name" in message


def test_unnamed_columns_are_ignored_and_a_nested_key_may_repeat_only_with_equal_values(folder):
    write(folder, "sst2/train.csv", b"\xef\xbb\xbfsentence,label,,\na,1,,\n")
    write(folder, "sst2/validation.jsonl", b'{"sentence": "a", "label": 1, "meta": {"x": 1, "x": 1}}\n')
    assert load(folder).train[0].label == load(folder).dev["validation"][0].label == 1
    write(folder, "sst2/validation.jsonl", b'{"sentence": "a", "label": 1, "meta": {"x": 1, "x": 2}}\n')
    assert "has the key 'x' twice, as 1 and as 2" in refused(folder)


def test_the_case_of_a_suffix_does_not_matter(folder):
    write(folder, "sst2/train.CSV", b"sentence,label\na,1\n")
    write(folder, "sst2/test-00000-of-00001.Jsonl", lines(*rows(0)))
    assert [example.label for example in load(folder).train] == [1] and len(load(folder).test["test"]) == 2


def test_dictionary_encoded_text_is_text(folder):
    for kind in (pyarrow.string(), pyarrow.large_string()):
        table = pyarrow.table({"sentence": pyarrow.array(["a", "b", "a"], kind).dictionary_encode(), "label": [0, 1, 0]})
        pyarrow.parquet.write_table(table, folder / "sst2" / "train.parquet")
        assert [example.texts[0] for example in load(folder).train] == ["a", "b", "a"]
        table = pyarrow.table({"sentence": pyarrow.array(["a", "b", "a"], kind), "label": [0.0, 1.0, 0.0]})
        pyarrow.parquet.write_table(table, folder / "sst2" / "train.parquet", use_dictionary=False)
        assert [example.label for example in load(folder).train] == [0, 1, 0]


@pytest.mark.parametrize(
    "column",
    [
        pyarrow.array([1, 2]),
        pyarrow.array([["a"], ["b"]]),
        pyarrow.array([{"bytes": b"x"}] * 2),
        pyarrow.array([b"a", b"b"]),
    ],
)
def test_a_column_without_text_is_named_with_its_type(column, folder):
    pyarrow.parquet.write_table(pyarrow.table({"sentence": column, "label": [0, 1]}), folder / "sst2" / "train.parquet")
    assert ", not texts" in refused(folder)
    table = pyarrow.table({"sentence": ["a", "b"], "label": [[1], [2]]})
    pyarrow.parquet.write_table(table, folder / "sst2" / "train.parquet")
    assert "list<element: int64>, not labels" in refused(folder)
    write(folder, "sst2/test.jsonl", lines({"sentence": "a"}))


def test_text_that_is_not_utf8_is_a_bad_row(folder):
    table = pyarrow.table({"sentence": pyarrow.array([b"\xff", b"fine", b"also"]), "label": [0, 1, 0]})
    binary = table.cast(pyarrow.schema({"sentence": pyarrow.binary(), "label": pyarrow.int64()}))
    text = pyarrow.Array.from_buffers(pyarrow.string(), 3, binary["sentence"].chunk(0).buffers())
    pyarrow.parquet.write_table(pyarrow.table({"sentence": text, "label": [0, 1, 0]}), folder / "sst2" / "train.parquet")
    assert "train.parquet row 0" in refused(folder) and "half of a surrogate pair" in refused(folder)
    assert len(load(folder, bad_rows="skip").train) == 2


def test_classes_of_hub_data_are_matched_by_name_and_other_columns_are_not_decoded(monkeypatch):
    import datasets

    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    pictures = pyarrow.array([{"path": "/nowhere/x.png"}] * 3, kind)
    table = pyarrow.table({"words": ["a", "b", "c"], "label": [0, 1, 0], "image": pictures})
    features = {"words": datasets.Value("string"), "label": datasets.ClassLabel(names=NAMES), "image": datasets.Image()}
    found = datasets.Dataset(
        datasets.table.InMemoryTable(table), info=datasets.DatasetInfo(features=datasets.Features(features))
    )
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *_, **__: ["train", "validation"])
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: found)
    spec = SST2.model_copy(update={"hub_columns": {"sentence": "words"}})
    data = load_task_data(spec, DataConfig())
    assert [(example.texts[0], example.label) for example in data.train] == [("a", 1), ("b", 0), ("c", 1)]
    found = found.rename_column("words", "sentense")
    with pytest.raises(UserError, match="lacks the column sentence"):
        load_task_data(spec, DataConfig())
