"""Printing without a reader: after pdsh has ended, ranks must still be able to save and stop."""

import os
import subprocess
import sys

import pytest

from mat_ds.terminal.lost_readers import Lasting
from tests.support.launch import ROOT


def to_nobody():
    """A text stream whose reader has gone."""
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "w")


def test_a_plain_stream_fails_and_a_protected_one_discards_output():
    plain = to_nobody()
    plain.write("lost\n")
    with pytest.raises(BrokenPipeError):
        plain.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), plain.fileno())

    stream = to_nobody()
    lasting = Lasting(stream)
    for _ in range(2):
        assert lasting.write("lost\n") == 5
        print("lost too", file=lasting, flush=True)
    stream.close()


def test_a_closed_terminal_is_survived_and_a_full_disk_is_an_error():
    ours, theirs = os.openpty()
    os.close(ours)
    with os.fdopen(theirs, "w") as stream:
        lasting = Lasting(stream)
        for _ in range(2):
            print("lost", file=lasting, flush=True)
    with open("/dev/full", "w") as full, pytest.raises(OSError, match="No space"):
        try:
            print("lost", file=Lasting(full), flush=True)
        finally:
            os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())


def test_a_process_without_a_reader_ends_with_its_own_code():
    program = (
        "import sys; from mat_ds.terminal.lost_readers import Lasting\n"
        "sys.stdout, sys.stderr = Lasting(sys.stdout), Lasting(sys.stderr)\n"
        "for _ in range(3): print('lost'); print('lost', file=sys.stderr)\n"
        "sys.exit(75)"
    )
    for unbuffered in ([], ["-u"]):
        with to_nobody() as nobody:
            command = [sys.executable, *unbuffered, "-c", program]
            assert subprocess.run(command, cwd=ROOT, stdout=nobody, stderr=nobody).returncode == 75
