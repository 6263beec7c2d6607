"""Unusual csv, tsv and jsonl files: quotes, line numbers, encodings, and characters that resemble line ends."""

import sys

import pytest

from mat_ds.tasks.example import LONGEST_TEXT
from mat_ds.tasks.registry import TASKS
from mat_ds.tasks.spec import TaskSpec
from tests.tasks.test_bad_rows import GOOD, cola, lines, load, refused, write


def two(folder, suffix, content):
    """The training examples of a task with one text column and the file `content`."""
    write(folder, f"own/train{suffix}", content if isinstance(content, bytes) else content.encode())
    write(folder, "own/validation.jsonl", lines({"text": "x", "label": "a"}))
    return TaskSpec(name="own", text=("text",), labels=("a", "b"))


def test_a_csv_record_has_the_line_number_where_it_begins(tmp_path):
    content = 'text,label\n"two\nlines",a\n\n"three\r\nmore\nlines",wrong\nok,b\ntoo,many,b\nfew\n,a\nlast,c\n'
    found = refused(two(tmp_path, ".csv", content), tmp_path)
    assert [place for place, _ in found] == [f"train.csv:{line}" for line in (5, 9, 10, 11, 12)]
    assert [reason.split(" (")[0] for _, reason in found] == [
        "the label is none of 0",
        "has 3 columns, the header 2",
        "has 1 columns, the header 2",
        "text is blank",
        "the label is none of 0",
    ]
    content = "text,label\nok,a\nok,b\nfew\n" + '"two\nlines",a\n'
    data = load(two(tmp_path, ".csv", content), tmp_path, bad_rows="skip")
    assert [example.texts[0] for example in data.train] == ["ok", "ok", "two\nlines"]
    assert data.skipped == {"own/train": {"corrupt line": 1}}


@pytest.mark.parametrize("bad", ['"never closed,a', '"closed"early,a', 'ends with a quote,"a'])
def test_a_stray_quote_spoils_only_its_own_line(bad, tmp_path):
    spec = two(tmp_path, ".csv", f'text,label\nbefore,a\n{bad}\nbehind,b\n"quoted",a\nlast,b\n')
    ((place, reason),) = refused(spec, tmp_path)
    assert place == "train.csv:3" and "cannot be parsed" in reason
    data = load(spec, tmp_path, bad_rows="skip")
    assert [example.texts[0] for example in data.train] == ["before", "behind", "quoted", "last"]


def test_a_stray_quote_in_a_file_longer_than_the_readers_buffer_spoils_only_its_own_line(tmp_path):
    rows = [f"line {i} " + "x" * 90 + ",a" for i in range(3000)]
    data = load(two(tmp_path, ".csv", "\n".join(["text,label", '"lost,a', *rows])), tmp_path, bad_rows="skip")
    assert len(data.train) == 3000 and data.skipped == {"own/train": {"corrupt line": 1}}


@pytest.mark.parametrize("length", [LONGEST_TEXT + 1, 500_000])
@pytest.mark.parametrize("suffix, separator", [(".csv", ","), (".tsv", "\t")])
def test_a_long_text_in_a_table_is_read_whole(suffix, separator, length, tmp_path):
    rows = (("text", "label"), ("ok", "a"), ("x" * length, "a"), ("ok", "b"))
    spec = two(tmp_path, suffix, "\n".join(separator.join(row) for row in rows))
    assert refused(spec, tmp_path)[0][0] == f"train{suffix}:3"
    data = load(spec, tmp_path, bad_rows="skip")
    assert len(data.train) == 2 and data.skipped == {"own/train": {"long text": 1}}


@pytest.mark.parametrize("suffix, separator", [(".csv", b","), (".tsv", b"\t")])
def test_rows_in_another_encoding_are_refused_by_line_and_a_header_at_once(suffix, separator, tmp_path):
    rows = [b"text,label", "café,a".encode("latin-1"), "café,a".encode(), b"tea,b"]
    spec = two(tmp_path, suffix, b"\n".join(row.replace(b",", separator) for row in rows))
    assert refused(spec, tmp_path) == [(f"train{suffix}:2", "is not UTF-8 text")]
    assert [e.texts[0] for e in load(spec, tmp_path, bad_rows="skip").train] == ["café", "tea"]
    spec = two(tmp_path, suffix, "text,label\nx,a\n".encode("utf-16"))
    assert refused(spec, tmp_path) == [(f"train{suffix}:1", "the header is not UTF-8 text")]


def test_a_jsonl_file_in_utf16_is_refused(tmp_path):
    cola(tmp_path, GOOD)
    write(tmp_path, "cola/train.jsonl", lines(*[GOOD] * 3).decode().encode("utf-16"))
    found = refused(TASKS["cola"], tmp_path, bad_rows="skip")
    assert "is not UTF-8" in found[0][1] and "more than half" in found[-1][1]


STRANGE = [
    "\ufeff inside",
    "line\u2028separator",
    "next\u0085line",
    "nul\x00byte",
    "bell\x07",
    "a\x0bb\x0cc",
    "\u200b",
    "e\u0301",
]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_unusual_characters_are_kept_and_a_byte_order_mark_is_removed(suffix, mark, tmp_path):
    # Python 3.10's csv cannot read a NUL.
    texts = [text for text in STRANGE if suffix == ".jsonl" or "\x00" not in text or sys.version_info >= (3, 11)]
    separator = {".csv": ",", ".tsv": "\t"}.get(suffix)
    rows = [{"text": text, "label": "a"} for text in texts]
    content = (
        lines(*rows)
        if separator is None
        else "".join(f"{separator.join(row)}\n" for row in [("text", "label"), *((text, "a") for text in texts)]).encode()
    )
    data = load(two(tmp_path, suffix, mark + content), tmp_path)
    assert [example.texts[0] for example in data.train] == texts


def test_crlf_ends_lines_in_every_format(tmp_path):
    for suffix, content in (
        (".jsonl", lines({"text": "x", "label": "a"}).decode()),
        (".csv", "text,label\nx,a\n"),
        (".tsv", "text\tlabel\nx\ta\n"),
    ):
        spec = two(tmp_path / suffix, suffix, content.replace("\n", "\r\n"))
        assert [(e.texts, e.label) for e in load(spec, tmp_path / suffix).train] == [(("x",), 0)]


def test_a_missing_label_is_not_the_class_named_none(tmp_path):
    spec = TaskSpec(name="own", text=("text",), labels=("None", "nan", "True"), dev=("train",), test=())
    write(tmp_path, "own/train.jsonl", lines(*({"text": "x", "label": label} for label in ("None", "True", "nan", 2, True))))
    assert [example.label for example in load(spec, tmp_path).train] == [0, 2, 1, 2, 2]
    write(tmp_path, "own/train.jsonl", lines(*({"text": "x", "label": label} for label in (None, float("nan"), "nan"))))
    assert [place for place, _ in refused(spec, tmp_path)][:2] == [f"train.jsonl:{line}" for line in (1, 2)]
