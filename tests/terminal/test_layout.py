"""Lines and tables on a terminal of 80 columns, and in a file."""

import pytest

from mat_ds.terminal.layout import table_text, wrapped

WIDE = [
    ["trial", "state", *(f"method.option_{i}" for i in range(9))],
    *([f"trial-{n}", "ended", *[n / 7] * 9] for n in range(3)),
]


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def file(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("os.get_terminal_size", lambda _: (_ for _ in ()).throw(OSError))


def test_numbers_are_below_each_other(file):
    rows = [["measured", "accuracy", "loss", "changed"], ["clean", 0.5, 1.25, None], ["keyboard 0.05", 0.12345, 12.0, 1043]]
    assert table_text(rows).splitlines() == [
        "measured       accuracy     loss  changed",
        "clean            0.5000   1.2500        -",
        "keyboard 0.05    0.1235  12.0000    1,043",
    ]


def test_parts_below_repeat_as_many_columns_as_tell_rows_apart(terminal):
    wide = [
        ["split", "attack", *(f"column_{i}" for i in range(9))],
        *(["dev", attack, *[0.5] * 9] for attack in ("one", "two")),
    ]
    parts = [part.splitlines() for part in table_text(wide).split("\n\n")]
    assert len(parts) > 1 and all([line.split()[:2] for line in part][1:] == [["dev", "one"], ["dev", "two"]] for part in parts)
    broad = [[row[0], row[1] * 30, *row[2:]] for row in wide]
    assert all(line.split()[0] in ("split", "dev") for line in table_text(broad).splitlines() if line)


def test_small_and_large_numbers_keep_four_digits(file):
    assert table_text([["lr"], [1e-5], [0.123456]]).split() == ["lr", "1e-05", "0.1235"]


def test_a_table_too_wide_for_the_terminal_goes_on_below_with_its_first_column(terminal):
    parts = [part.splitlines() for part in table_text(WIDE).split("\n\n")]
    assert len(parts) > 1 and all(len(line) <= 80 for part in parts for line in part)
    assert all([line.split()[0] for line in part] == ["trial", "trial-0", "trial-1", "trial-2"] for part in parts)
    assert [heading for part in parts for heading in part[0].split()[1:]] == WIDE[0][1:]


def test_a_file_has_no_end_of_line(file):
    assert "\n\n" not in table_text(WIDE) and wrapped("word " * 40, 11) == "word " * 40


def test_a_long_line_is_broken_between_words_and_indented(terminal):
    lines = wrapped(f"run        {'a' * 90} {'word ' * 20}".rstrip(), 11).splitlines()
    assert "".join(lines).split() == ["run", "a" * 90, *["word"] * 20]
    assert all(line.startswith(" " * 11) and len(line) <= 80 for line in lines[2:])
