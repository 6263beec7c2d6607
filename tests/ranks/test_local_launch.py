"""`mat-ds train --ranks N` starts the ranks of this machine, in place of its own process, after a mistake would be told."""

import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mat_ds.cli import main
from mat_ds.config.packaged import HOME
from mat_ds.errors import ExitCode
from mat_ds.ranks.local_launch import LAUNCHER, launch_command, without_ranks
from mat_ds.ranks.watchdog import LAUNCHERS
from tests.support.launch import environment

SCRIPT = str(HOME / "launch" / "train.py")


@pytest.fixture
def started(monkeypatch):
    """What would take the place of this process."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    found = []

    def execv(program, words):
        found.append(words)
        raise KeyboardInterrupt  # nothing after it may run

    monkeypatch.setattr(os, "execv", execv)
    return found


def train(*arguments):
    with pytest.raises(KeyboardInterrupt):
        main(["train", *arguments])


def ranks_in(words):
    (world,) = (word.partition("=")[2] for word in words if word.startswith("--world_info="))
    return json.loads(base64.urlsafe_b64decode(world))["localhost"]


@pytest.mark.parametrize("flag", [["--ranks", "2"], ["--ranks=2"]])
def test_the_launcher_of_this_environment_gets_the_same_arguments_without_the_flag(started, flag, tmp_path):
    train("--ds-config", "zero1", *flag, "seed=1", f"output_dir={tmp_path}/run", "--dry-run")
    (words,) = started
    assert words[:4] == [sys.executable, "-u", "-m", LAUNCHER] and ranks_in(words) == [0, 1]
    assert words[words.index(SCRIPT) + 1 :] == ["--ds-config", "zero1", "seed=1", f"output_dir={tmp_path}/run", "--dry-run"]


def test_where_processor_time_is_limited_the_ranks_still_divide_it_themselves(started, monkeypatch, tmp_path):
    monkeypatch.setattr("mat_ds.ranks.processors._quotas", lambda root: [0.5])
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    train("--ranks", "2", f"output_dir={tmp_path}/run")
    assert started and "OMP_NUM_THREADS" not in os.environ


def test_the_ranks_take_the_gpus_that_the_user_shows(started, monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,GPU-8f")
    assert ranks_in(launch_command(2, Path(SCRIPT), [])) == [3, 5]
    assert ranks_in(launch_command(3, Path(SCRIPT), [])) == [3, 5, "GPU-8f"]
    assert main(["train", "--ranks", "4"]) == ExitCode.USER_ERROR and not started
    assert "shows 3 of the GPUs" in (told := capsys.readouterr().err) and "pass --ranks 3" in told
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert ranks_in(launch_command(2, Path(SCRIPT), [])) == [0, 1], "processes on the CPU"


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--ranks", "3", "train.batch_size=32"], "is not divisible by the 3 ranks"),
        (["--ranks", "2", "max_step=3"], "train.max_steps"),
        (["--ranks", "0"], "not a whole number of at least 1"),
    ],
)
def test_a_mistake_is_told_before_ranks_are_started(started, arguments, told, capsys):
    assert main(["train", *arguments]) == ExitCode.USER_ERROR and not started
    assert told in capsys.readouterr().err


def test_a_rank_starts_no_ranks(started, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    assert main(["train", "--ranks", "2"]) == ExitCode.USER_ERROR and not started
    assert "is a rank already" in capsys.readouterr().err


def test_only_the_flag_is_left_out():
    assert without_ranks(["a=--ranks", "--ranks", "2", "--ranks=3", "--quiet", "x=2"]) == ["a=--ranks", "--quiet", "x=2"]


def test_ctrl_c_while_the_launcher_is_imported_ends_it_with_a_line_and_no_traceback(processes, tmp_path):
    (tmp_path / "slow.py").write_text("import sys, time; print(*sys.argv[1:], flush=True); time.sleep(60)")
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from mat_ds.ranks import local_launch\nlocal_launch.DEEPSPEEDS = 'slow'\n"
        "local_launch.run_process(local_launch.main)"
    )
    env, pipes = environment(), dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    env["PYTHONPATH"] += f"{os.pathsep}{tmp_path}"
    process = subprocess.Popen([sys.executable, "-c", program, "--node_rank=0", "x"], env=env, text=True, **pipes)
    processes.append(process)
    assert process.stdout.readline() == "--node_rank=0 x\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ("", "\ninterrupted\n") and process.returncode == -signal.SIGINT


def test_a_rank_knows_its_launcher():
    assert LAUNCHER in LAUNCHERS
