"""YAML files: each key once, no tags, every error with its line, and bounded work whatever is in the file."""

import os
import time

import pytest
import yaml

from mat_ds.config.yaml_files import MOST_BYTES, as_yaml, parse_yaml, read_yaml, scalar
from mat_ds.errors import UserError


def problem(folder, content):
    path = folder / "file.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        read_yaml(path)
    (found,) = caught.value.problems
    assert found.key.startswith(str(path)) and found.fix
    return found


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        ("train: {epochs: 1}\nseed: 1\ntrain: {epochs: 2}\n", 3, "'train' stands in line 1 and again in line 3"),
        ("train:\n  epochs: 1\n  epochs: 1\n", 3, "'epochs' stands in line 2"),
        ("a: [{b: 1, 'b': 2}]", 1, "'b' stands in line 1"),
        ("a: {0: x, '0': y}", 1, "'0' stands"),
        ("a: !!bool maybe", 1, "tag:yaml.org,2002:bool"),
        ("a:\n  - !!float x", 2, "tag:yaml.org,2002:float"),
        ("a: !!timestamp 2001-99-99", 1, "timestamp"),
        ("a: !!binary aGk=", 1, "binary"),
        ("a: !!set {x}", 1, "set"),
        ("a: !!python/object/apply:os.system [true]", 1, "python/object"),
        ("a: !mine 3", 1, "!mine"),
        ("a: ! 3", 1, "tag !"),
        ("seed: " + "9" * 5000, 1, "64 bits"),
        ("%YAML 1." + "9" * 5000 + "\n---\nseed: 1", 1, "more than 64 bits"),
        ("seed: -9223372036854775809", 1, "64 bits"),
        ("a: {~: 1}", 1, "not text"),
        ("a: {null : 1}", 1, "not text"),
        ("a: {[1]: 2}", 1, "not text"),
        ("a: {{b: 1}: 2}", 1, "not text"),
        ("a: &x {b: 1}\nc: {<<: *x}", 2, "the alias *x"),
        ("a: &x [*x]", 1, "the alias *x"),
        ("a: &x 1\nb: *x", 2, "the alias *x"),
        ("a: 1\n---\nb: 2", 2, "another document"),
        ("a:\n\tb: 1", 2, "'\\t'"),
        ("a: 1\nb: \0", 2, "U+0000"),
        ("a: \x1b[31m", 1, "U+001B"),
        ('a: "\\ud800"', 1, "surrogate"),
        ("a: b\nb: [1\nc: 2", 3, "expected ',' or ']'"),
        ("a: @x", 1, "'@'"),
    ],
)
def test_ambiguous_or_wrong_yaml_is_refused_with_its_line(content, line, said, tmp_path):
    found = problem(tmp_path, content)
    assert found.key == f"{tmp_path}/file.yaml:{line}" and said in found.reason


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: 1".encode("utf-16"), "is not UTF-8"),
        (b"a: 1\nb: \xff", "in line 2"),
        (b"~: 1", "the key in line 1"),
        (b"a: 1\n2: 3", "the key in line 2"),
        (b"[1]", "not hold a mapping"),
        (b"word", "not hold a mapping"),
        (b"#" * (MOST_BYTES + 1), "1,048,576 bytes"),
    ],
)
def test_anything_but_a_mapping_in_utf8_is_refused(content, said, tmp_path):
    assert said in problem(tmp_path, content).reason


@pytest.mark.parametrize(
    "content",
    [
        "a: " + "[" * 300_000,
        "a: " + "{" * 300_000,
        "- " * 300_000,
        "? " * 300_000,
        "".join(f"{' ' * i}a{i}:\n" for i in range(1000)),
        "a: [" + "[],[]," * 80_000 + "]",
        "a: &a [" + "x," * 999 + "x]\n" + "".join(f"b{i}: &b{i} [{'*a,' * 50}*a]\n" for i in range(20)),
        "\n".join(f"k{i}: &k{i} [*k{i - 1}, *k{i - 1}]" if i else "k0: &k0 [x, x]" for i in range(60)),
        "a: " + "9" * 1_000_000,
        "a: 1" + "0" * 900_000,
    ],
)
def test_files_built_to_exhaust_the_reader_are_refused_within_seconds(content, tmp_path):
    begin = time.process_time()
    problem(tmp_path, content)
    assert time.process_time() - begin < 15


def test_anything_but_a_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, said in (("pipe", "not a regular file"), ("folder", "directory"), ("none", "No such file"), ("x\0y", "null")):
        with pytest.raises(UserError, match="(?i)" + said):
            read_yaml(tmp_path / name)


def test_keys_are_literal_text_and_scalars_are_those_of_yaml_1_2(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("\ufeffmap: {0: a, 08: b, true: c, 1e5: d, off: e}\nx: &x [1e-5, off, 08, 1_000, 12:30, 0x1F]\n")
    row = [1e-5, "off", 8, "1_000", "12:30", "0x1F"]
    assert read_yaml(path) == {"map": {"0": "a", "08": "b", "true": "c", "1e5": "d", "off": "e"}, "x": row}
    path.write_text("# nothing\n")
    assert read_yaml(path) == {}


HARD = [
    "08",
    "1e5",
    "1E-5",
    "off",
    "yes",
    "NO",
    "null",
    "~",
    "",
    " ",
    "true",
    "True",
    "1_0",
    "12:30:00",
    "0o7",
    "0x1f",
    ".inf",
    ".NaN",
    "2001-01-01",
    "<<",
    "=",
    "a: b",
    "a #b",
    "#",
    "-",
    "- a",
    "? a",
    ":",
    "[",
    "{",
    "&a",
    "*a",
    "!a",
    "%a",
    "@a",
    "`a",
    "'",
    '"',
    "a'b",
    "\n",
    "a\nb\n",
    "\t",
    "a\r\nb",
    "\x1b[0m",
    "\x85",
    "\u2028",
    "\ufeff",
    "\x7f",
    "é",
    "東京",
    "😀",
    "|",
    ">",
    "---",
    "...",
    " a",
    "a ",
    "+1",
    "1.",
    "-.5",
    "x" * 300,
    "a b " * 100,
]


@pytest.mark.parametrize("text", HARD)
def test_every_written_text_is_read_back_by_this_reader_and_by_a_yaml_1_1_reader(text, tmp_path):
    tree = {"a": text, "b": {text: [text, [text]]}}
    path = tmp_path / "file.yaml"
    path.write_text(as_yaml(tree))
    assert read_yaml(path) == tree == yaml.safe_load(path.read_text())


def test_what_is_written_stays_readable_to_people():
    assert as_yaml({"a": {"b": "runs/cola x"}, "c": [1e-5, 2, True, None], "d": {}}) == (
        "a:\n  b: runs/cola x\nc:\n- 1.0e-05\n- 2\n- true\n- null\nd: {}\n"
    )


def test_bare_words_are_texts_numbers_booleans_or_null():
    assert [scalar(word) for word in ("3 # x", "&x", "*x", "!x", "- x", "a: b", "08", "1e5", "true", "null")] == [
        "3 # x", "&x", "*x", "!x", "- x", "a: b", 8, 1e5, True, None,
    ]  # fmt: skip
    assert parse_yaml("[.inf, -.inf]") == [float("inf"), float("-inf")]
