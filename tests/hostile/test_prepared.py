"""Hostile prepared folders: manifest, files and examples are checked before training."""

import json
import os
import shutil

import pyarrow
import pytest

from mat_ds.commands.prepare import verify_prepared
from mat_ds.errors import UserError
from mat_ds.tasks.examples import load_task_data
from mat_ds.tasks.manifest import find_manifest
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.registry import TASKS
from tests.commands.test_prepare import prepare, problems
from tests.conftest import hub, raw  # noqa: F401

COLA = TASKS["cola"]
ODD = (None, True, -1, 2**70, 1.5, "x", "../x", "\x1b[2J", [], [1], {}, {"a": 1}, [[]], {"": None})


@pytest.fixture(scope="module")
def whole(raw, hub, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("prepared") / "out"
    prepare(folder, "task=cola", f"data.path={raw}", f"model.name={hub}")
    return folder


@pytest.fixture
def out(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "out")


def load(folder):
    return load_task_data(COLA, DataConfig(path=str(folder)))


def refused(folder):
    with pytest.raises(UserError) as caught:
        load(folder)
    return str(caught.value)


def places(tree, path=()):
    """The paths of all values in a tree."""
    yield path
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from places(value, (*path, key))
    elif isinstance(tree, list):
        for i, value in enumerate(tree):
            yield from places(value, (*path, i))


def changed(tree, path, value):
    """A copy of a tree with another value at a path; `...` removes the value."""
    tree = json.loads(json.dumps(tree))
    if not path:
        return value
    inner = tree
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return tree


@pytest.mark.parametrize("most", [3, pytest.param(len(ODD), marks=pytest.mark.slow)])
def test_a_manifest_with_any_changed_value_is_read_or_refused(most, out):
    file = out / "manifest.json"
    tree = json.loads(file.read_text())
    for i, path in enumerate(places(tree)):
        some = [ODD[(i * most + j) % len(ODD)] for j in range(most)]
        for value in (*some, *((...,) if path else ())):
            file.write_text(json.dumps(changed(tree, path, value)))
            for use in (load, verify_prepared):
                try:
                    use(out)
                except UserError as error:
                    assert "fix: " in str(error) and "\x1b" not in str(error)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 10**6,
        b'{"mat_ds_prepared": 1, "mat_ds_prepared": 1}',
        b'{"mat_ds_prepared": 1}',
        b'{"mat_ds_prepared": ' + b"1" * 5000 + b"}",
        b'{"mat_ds_prepared": NaN}',
        b'{"mat_ds_prepared": 2}',
        b"\x00" * 100,
    ],
)
def test_a_malformed_manifest_is_refused(content, out):
    (out / "manifest.json").write_bytes(content)
    with pytest.raises(UserError, match="fix: "):
        find_manifest(str(out))


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "data/../../secret", "data//x", "", ".", "a\0b"])
@pytest.mark.parametrize("part", ["files", "splits"])
def test_names_in_a_manifest_that_lead_out_of_the_folder_are_refused(name, part, out):
    (out.parent / "secret").write_text("nobody else's business")
    tree = json.loads((out / "manifest.json").read_text())
    tree[part][name] = next(iter(tree[part].values()))
    (out / "manifest.json").write_text(json.dumps(tree))
    assert "is not a path within the folder" in refused(out)


def test_links_out_of_the_folder_and_other_than_regular_files_are_refused(out):
    name = "data/train/cola/train/data-00000-of-00001.arrow"
    elsewhere = out.parent / "elsewhere.arrow"
    (out / name).rename(elsewhere)
    (out / name).symlink_to(elsewhere)
    assert "is a link that leads out of the folder" in refused(out)
    for make in (os.mkfifo, os.mkdir):  # the folder comes last, since it cannot be unlinked
        (out / name).unlink()
        make(out / name)
        assert "is missing" in refused(out)


def stored(out, split, **columns):
    """Changes columns of a split's examples, and the manifest accordingly."""
    folder = out / "data" / split
    file = folder / "data-00000-of-00001.arrow"
    table = pyarrow.ipc.open_stream(file.read_bytes()).read_all()
    for column, value in columns.items():
        rows = [value] * len(table)
        if column in table.column_names:
            kind = table.schema.field(column).type
            table = table.set_column(table.schema.get_field_index(column), column, pyarrow.array(rows, kind))
        else:
            table = table.append_column(column, pyarrow.array(rows))
    with pyarrow.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    tree = json.loads((out / "manifest.json").read_text())
    tree["files"] = {}
    (out / "manifest.json").write_text(json.dumps(tree))


@pytest.mark.parametrize(
    "columns, reason",
    [
        ({"label": 2}, "labels outside [0, 1]"),
        ({"label": -1}, "labels outside [0, 1]"),
        ({"label": None}, "rows without a label"),
        ({"weight": -1.0}, "has weights that are negative or no numbers"),
        ({"weight": float("nan")}, "has weights that are negative or no numbers"),
        ({"weight": 1}, "has a weight column of int64"),
        ({"probabilities": [0.5, 0.3, 0.2]}, "has labels that are not a probability for each"),
        ({"probabilities": [1.5, -0.5]}, "has labels that are not a probability for each"),
        ({"texts": ["a", "b"]}, "rows of other than 1 texts"),
        ({"texts": []}, "rows of other than 1 texts"),
        ({"texts": [None]}, "rows without texts"),
        ({"texts": None}, "rows without texts"),
        ({"input_ids": [-5]}, "negative tokens"),
        ({"input_ids": []}, "rows without tokens"),
        ({"input_ids": None}, "rows without input_ids"),
        ({"input_ids": [1, 2, 3], "token_type_ids": [0]}, "more of one model input than of another"),
        ({"inputs_embeds": [1]}, "has the columns"),
        ({"labels": [1]}, "has the columns"),
    ],
)
def test_stored_rows_that_do_not_fit_the_task_are_refused(columns, reason, out):
    if "input_ids" in columns and columns["input_ids"] in ([-5], []):
        columns = {**columns, "token_type_ids": [0] * len(columns["input_ids"])}
    stored(out, "train/cola/train", **columns)
    assert reason in refused(out)


def test_labels_of_a_test_split_are_ignored(out):
    stored(out, "test/cola/test", label=7)
    assert len(load(out).test["test"]) == 9


def test_a_stored_token_outside_the_vocabulary_is_refused_before_training(out, hub):  # noqa: F811
    stored(out, "train/cola/train", input_ids=[10**6], token_type_ids=[0])
    found = problems("task=cola", f"data.path={out}", f"model.name={hub}")
    assert "holds the token 1000000" in found["data.path"].reason


def test_a_stored_token_type_without_an_embedding_is_refused_before_training(out, hub):  # noqa: F811
    stored(out, "train/cola/train", input_ids=[5], token_type_ids=[7])
    found = problems("task=cola", f"data.path={out}", f"model.name={hub}")
    assert "holds the token type 7" in found["data.path"].reason and "has 2" in found["data.path"].reason
