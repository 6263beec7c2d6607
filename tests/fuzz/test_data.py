"""Data files with any bytes are read or refused, and intact records are read as written, whatever is next to them."""

import csv
import io
import json
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mat_ds.errors import UserError
from mat_ds.tasks.delimited import _parse_records
from mat_ds.tasks.example import BadRow, Example
from mat_ds.tasks.examples import load_task_data
from mat_ds.tasks.labels import class_of, label_text
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.registry import TASKS
from mat_ds.tasks.rows import make_example
from mat_ds.tasks.spec import TaskSpec
from tests.support.launch import ROOT, environment
from tests.support.processes import run
from tests.tasks.test_bad_rows import lines, write

SST2 = TASKS["sst2"]
FEW = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))

# Characters that are special in csv, and those that no table should hold.
TORN = st.text(alphabet='xy",,""\n\n\r\t\0\ufeff 01', max_size=80)
PLAIN = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20).map(lambda text: f"a{text}")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["sentence", "label", "x"]), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("data")
    write(found, "sst2/validation.jsonl", lines({"sentence": "a", "label": 1}))
    return found


def read(folder, suffix, content, **data):
    """The training examples in a file with these bytes, or the error."""
    path = folder / "sst2" / f"train{suffix}"
    path.write_bytes(content)
    try:
        return [(e.texts[0], e.label) for e in load_task_data(SST2, DataConfig(path=str(folder), **data)).train]
    except UserError as error:
        assert str(error).count("fix: ") == len(error.problems) and len(str(error)) < 20_000
        return str(error)
    finally:
        path.unlink()


@FEW
@given(
    suffix=st.sampled_from([".csv", ".tsv", ".jsonl", ".json", ".parquet"]),
    content=st.binary(max_size=200) | TORN.map(str.encode),
    rule=st.sampled_from(["refuse", "skip"]),
)
def test_any_bytes_are_read_or_refused(folder, suffix, content, rule):
    read(folder, suffix, content, bad_rows=rule)
    read(folder, suffix, b"sentence,label\n" + content, bad_rows=rule)


@FEW
@given(values=st.lists(JSON, max_size=5), suffix=st.sampled_from([".jsonl", ".json"]), rule=st.sampled_from(["refuse", "skip"]))
def test_any_json_is_read_or_refused(folder, values, suffix, rule):
    read(folder, suffix, "\n".join(map(json.dumps, values)).encode(), bad_rows=rule)
    read(folder, ".json", json.dumps(values).encode(), bad_rows=rule)


@FEW
@given(rows=st.lists(st.tuples(PLAIN, st.integers(0, 1)), min_size=1, max_size=6))
def test_written_rows_are_read_back_in_every_file_format(folder, rows):
    named = [{"sentence": text, "label": label} for text, label in rows]
    table = io.StringIO()
    writer = csv.DictWriter(table, ["sentence", "label"], lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(named)
    assert read(folder, ".csv", table.getvalue().encode()) == rows
    assert read(folder, ".jsonl", lines(*named)) == rows
    assert read(folder, ".json", json.dumps(named, ensure_ascii=False, indent=1).encode()) == rows


def slow_records(content):
    """csv records by definition: starting at each line, the shortest sequence of lines that is a record; if there is none,
    the line is bad, and reading continues with the next."""
    left, first = content.splitlines(keepends=True) if "\r" not in content else None, 1
    while left:
        reader = csv.reader(iter(left), strict=True)
        try:
            record, used = next(reader), reader.line_num
        except csv.Error:
            record, used = None, 1
        if record != []:
            yield first, record
        left, first = left[used:], first + used


@FEW
@given(content=st.text(alphabet='xy",,""\n\n ', max_size=120))
def test_reading_in_one_pass_finds_the_same_records_as_the_definition(content):
    found = [
        (number, None if isinstance(record, BadRow) else record)
        for number, record in _parse_records(iter(io.StringIO(content, newline="")), ",", csv.QUOTE_MINIMAL)
    ]
    assert found == list(slow_records(content))


NAMED = st.sampled_from(["a", "b", "c", "1", "2", "0", "1.0", "True"])
LABELS = st.integers(-3, 12) | st.floats() | st.booleans() | NAMED | st.text(max_size=3)


@FEW
@given(
    names=st.lists(st.sampled_from(["a", "b", "c", "1", "2", "0", "-1", "True", "1.5"]), min_size=2, unique=True), value=LABELS
)
def test_a_label_means_the_same_as_its_text(names, value):
    spec = TaskSpec(name="own", text=("sentence",), labels=tuple(names))
    meaning = class_of(spec, value)
    assert class_of(spec, str(value)) == meaning, "as csv writes it"
    assert class_of(spec, json.loads(json.dumps(value))) == meaning
    numeric = {float(name) for name in names if name not in ("a", "b", "c", "True")}
    if meaning is not None and isinstance(value, int | float) and not isinstance(value, bool):
        assert float(value) == float(names[meaning]) if numeric else value == meaning
    found = make_example(spec, {"sentence": "x", "label": value}, labelled=True)
    assert (found.label if isinstance(found, Example) else None) == meaning
    assert label_text(label_text(value)) == label_text(value)


def flipping(count):
    command = [sys.executable, "-m", "tests.fuzz.flipping", str(count)]
    done = run(command, 900, cwd=ROOT, env=environment())
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_damaged_column_file_is_read_or_refused():
    flipping(60)


@pytest.mark.slow
def test_a_column_file_damaged_in_many_ways_is_read_or_refused():
    flipping(3000)
