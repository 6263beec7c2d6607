"""The first use shown in docs/quickstart.md is what a terminal of 80 columns shows, but for numbers and times.

`WRITE_TRANSCRIPT=1 python -m pytest -m slow tests/distributed/test_transcript.py` writes it anew.
"""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support.launch import ROOT, environment

pytestmark = pytest.mark.dist

PAGE, COLUMNS = ROOT / "docs" / "quickstart.md", 80
COMMANDS = (
    "mat-ds train output_dir=runs/first train.max_steps=80",
    "mat-ds predict runs/first --text 'the key near the cabinets are golden'",
    'mat-ds evaluate runs/first limit=40 "attack.radii=[1e-2]" "noise.rates=[0.1]"',
    "mat-ds runs",
)
BLOCK = re.compile(r"(<!-- written by tests/distributed/test_transcript.py -->\n```console\n)(.*?)(```\n)", re.S)


def written():
    (found,) = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    return found[1]


def shown(command, folder, env):
    """What a terminal shows of a command in the end: a bar that is drawn over and over again is there once."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    process = subprocess.Popen(["bash", "-c", command], cwd=folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    text = b""
    try:
        while part := os.read(ours, 1 << 16):
            text += part
    except OSError:  # the other end is closed
        pass
    assert process.wait() == 0, text.decode()[-3000:]
    os.close(ours)
    screen = []
    for line in re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text.decode().replace("\r\n", "\n")).split("\n"):
        cells = []
        for part in line.split("\r"):
            cells = [*part, *cells[len(part) :]]
        screen.append("".join(cells).rstrip())
    return [line for line in screen if line]


def too_wide(text):
    """Lines wider than the terminal, but for those that are to be copied or read by programs."""
    return [line for line in text.splitlines() if len(line) > COLUMNS and not line.startswith(("next  ", "{"))]


def without_numbers(text):
    """A transcript with its numbers and the lengths of its bars left out."""
    return re.sub(r"\s+", " ", re.sub(r"[█▏▎▍▌▋▊▉]+|[-+]?\d[\d,.:e+-]*", "0", text))


@pytest.mark.slow  # a minute
def test_the_first_use_in_the_quick_start_is_what_a_terminal_shows():
    env = environment(PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", TERM="xterm")
    env.pop("COLUMNS", None)
    with TemporaryDirectory(dir="/tmp") as folder:  # whose path is short, as a user's
        parts = ["\n".join([f"$ {command}", *shown(command, folder, env)]) for command in COMMANDS]
    text = "\n\n".join(parts).replace(folder, "/home/me") + "\n"
    if "WRITE_TRANSCRIPT" in os.environ:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(BLOCK.sub(lambda found: found[1] + text + found[3], page), encoding="utf-8")
    assert not too_wide(text)
    assert without_numbers(text) == without_numbers(written())


def test_the_first_use_fits_80_columns_and_has_the_commands_of_the_test():
    assert not too_wide(written())
    assert tuple(line[2:] for line in written().splitlines() if line.startswith("$ ")) == COMMANDS
