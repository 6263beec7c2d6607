"""A command that is busy for long says with what, once, if a person watches."""

import io
import sys
import time

import pytest

from mat_ds.terminal.waiting import waiting


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.isatty = lambda: terminal


@pytest.mark.parametrize(
    ("terminal", "rank", "speaks", "seconds", "said"),
    [
        (True, "0", True, 0.2, "reading the data ...\n"),
        (True, "0", True, 0.0, ""),
        (True, "0", False, 0.2, ""),
        (True, "1", True, 0.2, ""),
        (False, "0", True, 0.2, ""),
    ],
)
def test_what_takes_long_is_said_once_to_a_person(terminal, rank, speaks, seconds, said, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Stream(terminal))
    monkeypatch.setenv("LOCAL_RANK", rank)
    with waiting("reading the data", speaks, after=0.05):
        time.sleep(seconds)
    time.sleep(0.1)
    assert sys.stderr.getvalue() == said


def test_nothing_is_said_after_an_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Stream(True))
    with pytest.raises(OSError), waiting("reading the data", after=0.05):
        raise OSError
    time.sleep(0.1)
    assert sys.stderr.getvalue() == ""
