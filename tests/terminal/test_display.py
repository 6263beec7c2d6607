"""What a run prints on a terminal, into a file, with --quiet and with --json; and what it hides of libraries' logs."""

import fcntl
import json
import logging
import os
import struct
import subprocess
import sys
import termios
import warnings

import pytest

from mat_ds.terminal.display import Display
from mat_ds.terminal.library_logs import LibraryLogs
from tests.support.launch import ROOT

PROGRAM = """
from mat_ds.terminal.display import Display
display = Display(True)
with display.bar("mat", 40, 30) as bar:
    bar._bar.mininterval = 0
    for _ in range(10):
        bar.tell("loss 0.5", "best 0.9", "12 examples/s", "L 0.4", "R 0.1", "a fact too long for this line")
        bar.update()
    display.say("step 40: score 1")
"""


def play(display):
    with display.bar("mat", 4, 0) as bar:
        bar.tell("loss 0.5", "L 0.4", "R 0.1", "best 0.9")
        bar.update(4)
        display.say("an evaluation")
    display.warn("low disk")
    display.conclude(json.dumps({"score": 1}))


def test_in_a_file_progress_is_whole_lines_with_losses_and_the_time_left(capsys):
    play(Display(True))
    out, err = capsys.readouterr()
    assert out.splitlines() == ["an evaluation", '{"score": 1}']
    assert "\r" not in err and all(line.startswith(("mat: ", "*** WARNING: low disk")) for line in err.splitlines())
    assert "mat: 100% 4/4 steps [00:00<00:00, loss 0.5, L 0.4, R 0.1, best 0.9]" in err.splitlines()


@pytest.mark.parametrize("columns, last", [(80, "L 0.4"), (60, "best 0.9"), (120, "a fact too long for this line")])
def test_on_a_terminal_progress_is_one_moving_line_that_fits(columns, last):
    leader, follower = os.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("4H", 40, columns, 0, 0))
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=follower, stderr=follower, check=True)
    os.close(follower)
    shown = os.read(leader, 65536).decode()
    os.close(leader)
    assert shown.count("\r") > 5 and "step 40: score 1\r\n" in shown
    frames = [frame for frame in shown.split("\r") if "40/40" in frame]
    assert frames and all(len(frame) <= columns and f"{last}]" in frame for frame in frames)


def test_quiet_leaves_warnings_and_the_result(capsys):
    play(Display(True, quiet=True))
    out, err = capsys.readouterr()
    assert (out, err) == ('{"score": 1}\n', "*** WARNING: low disk\n")


def test_with_json_stdout_has_only_the_json(capsys):
    play(Display(True, json=True))
    out, err = capsys.readouterr()
    assert json.loads(out) == {"score": 1} and "an evaluation" in err


def test_other_ranks_are_silent(capsys):
    play(Display(False))
    assert capsys.readouterr() == ("", "")


def test_libraries_log_to_the_runs_file_and_only_their_errors_are_printed(tmp_path, capfd):
    file, library = tmp_path / "train.log", logging.getLogger("transformers.models")
    warnings.simplefilter("ignore")  # as a command's process does
    with LibraryLogs(kept=True) as library_logs:
        library.info("before there was a run")
        library_logs.write_to(file)
        library.warning("a weight is new")
        library.error("a file is broken")
        warnings.warn("this will change", FutureWarning, stacklevel=1)
    library.error("after")
    written = file.read_text()
    texts = ("before there", "a weight is", "a file is", "FutureWarning: this", "after")
    assert [written.count(text) for text in texts] == [1, 1, 1, 1, 0]
    assert capfd.readouterr().err.splitlines()[0] == "a file is broken"
    with LibraryLogs(kept=True) as library_logs:
        library_logs.write_to(file)
    assert file.read_text() == written, "a run that goes on adds to it"


@pytest.mark.parametrize("kept", [True, False])
def test_a_run_without_a_folder_leaves_no_handlers(kept):
    before = list(logging.getLogger().handlers)
    with LibraryLogs(kept):
        logging.getLogger("DeepSpeed").info("hello")
    assert logging.getLogger().handlers == before
