"""List columns are read alike from every format, within limits on memory, and come back from prepared folders."""

import csv
import io
import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from mat_ds.errors import UserError
from mat_ds.models.build import build_tokenizer
from mat_ds.models.options import ModelConfig
from mat_ds.tasks import columns, decoding
from mat_ds.tasks.examples import load_task_data
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.lists import list_of
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.own_data import task_of
from mat_ds.tasks.spec import TaskSpec
from mat_ds.tasks.stored import store_examples, stored_examples
from tests.tasks.test_bad_rows import lines, write

SPEC = TaskSpec(name="own", kind="multi_label", text=("text",), labels=("sea", "sky", "a, b"), test=())
ROWS = [("one", ["sea"]), ("two", []), ("three", ["a, b", "sea"]), ("four", ["sky"])]
FOUND = [("one", (0,)), ("two", ()), ("three", (0, 2)), ("four", (1,))]


def csv_bytes():
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerows([("text", "label"), *((text, json.dumps(labels)) for text, labels in ROWS)])
    return file.getvalue().encode()


def named():
    return [{"text": text, "label": labels} for text, labels in ROWS]


def parquet(**of):
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(named(), **of), file)
    return file.getvalue()


def saved(folder, features=None):
    datasets.Dataset.from_list(named() if features is None else features[0], features and features[1]).save_to_disk(str(folder))


def load(folder):
    write(folder, "own/validation.jsonl", lines(*named()))
    return load_task_data(SPEC, DataConfig(path=str(folder)))


def pairs(examples):
    return [(example.texts[0], example.label) for example in examples]


large = pyarrow.schema({"text": pyarrow.large_string(), "label": pyarrow.large_list(pyarrow.large_string())})
WRITTEN = {
    ".jsonl": lambda: lines(*named()),
    ".json": lambda: json.dumps(named()).encode(),
    ".csv": lambda: csv_bytes(),
    ".parquet": parquet,
    "large.parquet": lambda: parquet(schema=large),
}


@pytest.mark.parametrize("suffix", WRITTEN)
def test_lists_are_read_alike_from_every_format(suffix, tmp_path):
    write(tmp_path, f"own/train{suffix.removeprefix('large')}", WRITTEN[suffix]())
    data = load(tmp_path)
    assert pairs(data.train) == pairs(data.dev["validation"]) == FOUND


def test_lists_are_read_from_tsv_cells_which_have_no_quotes(tmp_path):
    write(tmp_path, "own/train.tsv", b'text\tlabel\none\t["sea"]\ntwo\t[]\nthree\t["a, b", "sea"]\nfour\t["sky"]\n')
    assert pairs(load(tmp_path).train) == FOUND


@pytest.mark.parametrize("numbered", [False, True])
def test_lists_are_read_from_saved_folders_also_if_they_number_classes_in_another_order(numbered, tmp_path):
    features = None
    if numbered:
        order = ["sky", "a, b", "sea"]
        rows = [{"text": text, "label": [order.index(name) for name in labels]} for text, labels in ROWS]
        kinds = {"text": datasets.Value("string"), "label": datasets.Sequence(datasets.ClassLabel(names=order))}
        features = rows, datasets.Features(kinds)
    saved(tmp_path / "own" / "train", features)
    assert pairs(load(tmp_path).train) == FOUND


@pytest.mark.parametrize("value, told", [
    ("sea", "JSON list"), (1, "JSON list"), (None, "JSON list"), ({"sea": 1}, "JSON list"), ('["sea"', "JSON list"),
    (["rain"], "label 1 of 1 is none of"), (["sea", None], "label 2 of 2 is none of"), (["sea", 0], "named twice"),
    ([["sea"]], "label 1 of 1 is none of"),
])  # fmt: skip
def test_what_is_no_list_of_labels_is_refused(value, told, tmp_path):
    write(tmp_path, "own/train.jsonl", lines(*named(), {"text": "five", "label": value}))
    with pytest.raises(UserError) as error:
        load(tmp_path)
    (problem,) = error.value.problems
    assert told in problem.reason and problem.key.endswith("train.jsonl:5")


def test_a_list_column_where_the_task_has_one_label_is_refused(tmp_path):
    write(tmp_path, "own/train.parquet", parquet())
    write(tmp_path, "own/validation.jsonl", lines(*named()))
    with pytest.raises(UserError, match="not labels"):
        load_task_data(SPEC.model_copy(update={"kind": "classification"}), DataConfig(path=str(tmp_path)))


def test_a_small_file_cannot_fill_the_memory_with_lists(tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "ALLOWED_BYTES", 1000)
    repeated = {"text": "one", "label": ["sea"] * 400_000}  # a few hundred bytes in Parquet's run lengths
    write(tmp_path, "own/train.parquet", b"")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([repeated]), tmp_path / "own" / "train.parquet")
    decoded = []
    monkeypatch.setattr(decoding, "_decode", lambda scalar, own=decoding._decode: decoded.append(1) or own(scalar))
    with pytest.raises(UserError, match="decompresses to more than"):
        load(tmp_path)
    assert len(decoded) < 10, "decoded before it was counted"


def test_a_bad_text_in_a_list_spoils_only_its_row(tmp_path):
    table = pyarrow.table({"text": ["one", "two"], "label": [[b"\xff"], [b"sea"]]})
    schema = pyarrow.schema({"text": pyarrow.string(), "label": pyarrow.list_(pyarrow.string())})
    entries = pyarrow.Array.from_buffers(pyarrow.string(), 2, table["label"].chunk(0).values.buffers())
    labels = pyarrow.ListArray.from_arrays([0, 1, 2], entries)
    write(tmp_path, "own/train.parquet", b"")
    pyarrow.parquet.write_table(pyarrow.table([table["text"], labels], schema=schema), tmp_path / "own" / "train.parquet")
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert [problem.key.rpartition(" ")[2] for problem in error.value.problems] == ["0"]


@pytest.mark.parametrize("text, expected", [("[1, 2]", [1, 2]), (" [] ", []), ("[" * 100_000, None), ("{}", None), ("", None)])
def test_a_text_is_a_list_if_it_is_a_json_list(text, expected):
    assert list_of(text) == expected


def test_labels_that_are_lists_come_back_from_prepared_data_and_damage_is_found(tmp_path):
    write(tmp_path, "own/train.jsonl", lines(*named()))
    examples = load(tmp_path).train
    tokenizer = build_tokenizer(ModelConfig(), [text for text, _ in ROWS] * 20)
    store_examples(tmp_path / "stored", examples, tokenizer, 16, SPEC)
    found = stored_examples([tmp_path / "stored"], None, True, SPEC)
    assert pairs(found) == FOUND and all(example.tokens for example in found)
    kind = kind_of(SPEC)
    inputs, targets = kind.collate(tokenizer, list(found), 16)
    again, same = kind.collate(tokenizer, examples, 16)
    assert targets.tolist() == same.tolist() == [[1, 0, 0], [0, 0, 0], [1, 0, 1], [0, 1, 0]]
    assert inputs.keys() == again.keys() and all((inputs[name] == again[name]).all() for name in inputs)
    fewer = SPEC.model_copy(update={"labels": ("sea", "sky")})
    with pytest.raises(UserError, match="labels outside"):
        stored_examples([tmp_path / "stored"], None, True, fewer)
    with pytest.raises(UserError, match="has the columns"):
        stored_examples([tmp_path / "stored"], None, True, SPEC.model_copy(update={"kind": "classification"}))


def own(folder, name, content, **data):
    (folder / name).write_bytes(content)
    return task_of("own", DataConfig(train=str(folder / name), **data))


def test_the_kind_of_own_files_is_found_in_their_rows(tmp_path):
    found = own(tmp_path, "train.jsonl", lines(*named()))
    assert (found.kind, found.labels, found.metrics) == ("multi_label", ("a, b", "sea", "sky"), ("f1_micro", "f1_macro"))
    assert own(tmp_path, "train.csv", csv_bytes()).kind == "multi_label"
    assert own(tmp_path, "train.parquet", parquet()).kind == "multi_label"
    assert own(tmp_path, "train.jsonl", lines(*named()), labels=("sea", "sky", "a, b")).kind == "multi_label"
    words = [{"text": ["a", "b"], "label": ["NN", "VB"]}, {"text": ["c"], "label": ["NN"]}]
    found = own(tmp_path, "words.jsonl", lines(*words))
    assert (found.kind, found.labels, found.metrics) == ("token_classification", ("NN", "VB"), ("accuracy",))
    found = own(tmp_path, "words.conll", b"a B-X\nb O\n\nc I-X\n")
    assert (found.kind, found.text, found.label, found.metrics) == (
        "token_classification", ("tokens",), "tags", ("seqeval_f1",))  # fmt: skip
    soft = [{"text": "a", "label": [0.5, 0.5]}, {"text": "b", "label": "x"}]
    assert own(tmp_path, "soft.jsonl", lines(*soft), labels=("x", "y")).kind == "classification"


def test_own_files_of_which_only_some_rows_have_lists_are_refused(tmp_path):
    with pytest.raises(UserError, match="4 of 5 rows"):
        own(tmp_path, "train.jsonl", lines(*named(), {"text": "five", "label": "sea"}))
    with pytest.raises(UserError, match=r"1 of 2 rows .* have a list of words"):
        own(tmp_path, "train.jsonl", lines({"text": ["a"], "label": ["x"]}, {"text": "b", "label": ["y"]}))
