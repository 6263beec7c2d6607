"""Processes killed at any moment, and full disks: what was saved is intact, and the run continues from it."""

import json
import os
import random
import signal
import subprocess
import time

import pytest

from mat_ds.errors import ExitCode
from mat_ds.storage.checkpoints import checkpoints_of, name_of
from mat_ds.storage.integrity import verify_checkpoint
from tests.support.launch import run_cli, start_cli, start_ranks
from tests.workers.small_run import OPTIONS, STEPS, same, steps

pytestmark = pytest.mark.dist

# A rank whose peer dies before they connect waits for it until the time-out.
ZERO2 = ("--ds_config", "ds_configs/zero2.json", *OPTIONS, "train.timeout_minutes=0.25")
# Seconds within which a rank must end after its peer has ended.
SECONDS = 60


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    assert [process.wait(300) for process in start_ranks(2, *ZERO2, f"output_dir={run}")] == [0, 0]
    return run


def reached(run, step, processes, seconds=300):
    """Waits until a run has logged a step; returns whether it has."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and all(process.poll() is None for process in processes):
        if any(record["step"] >= step for record in steps(run)):
            return True
        time.sleep(0.005)
    return False


def kill_and_go_on(run, times, seed):
    """Kills one rank at a random moment, `times` times, then lets the run finish."""
    chance = random.Random(seed)
    for life in range(times):
        ranks = start_ranks(2, *ZERO2, f"output_dir={run}")
        try:
            reached(run, chance.randint(1, STEPS), ranks)
            time.sleep(chance.uniform(0, 0.3))
            victim = chance.randrange(2)
            ended = ranks[victim].poll() is not None
            ranks[victim].kill()
            code = ranks[1 - victim].wait(SECONDS)
            assert code != 0 or ended or (run / "results.json").exists(), f"life {life}"
        finally:
            for process in ranks:
                process.kill()
                process.wait()
        (run / "results.json").unlink(missing_ok=True)
        for checkpoint in checkpoints_of(run):
            assert verify_checkpoint(checkpoint) is None, f"life {life}"
    assert [process.wait(300) for process in start_ranks(2, *ZERO2, f"output_dir={run}")] == [0, 0]


def test_a_rank_killed_three_times_ends_the_others_and_the_run_ends_bit_identical(whole, tmp_path):
    kill_and_go_on(tmp_path / "run", times=3, seed=time.time_ns())
    assert same(tmp_path / "run", whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_after_twenty_kills_the_run_ends_bit_identical(whole, tmp_path, seed):
    kill_and_go_on(tmp_path / "run", times=4, seed=seed)
    assert same(tmp_path / "run", whole)


@pytest.fixture
def keyboard():
    """Lets Ctrl-C reach the processes of a test even if the tests were started to ignore it, as in a script's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_saves_and_the_run_can_continue(keyboard, tmp_path):
    run = tmp_path / "run"
    rank = start_cli(*ZERO2, f"output_dir={run}")
    try:
        assert reached(run, 2, [rank])
        rank.send_signal(signal.SIGINT)
        assert rank.wait(SECONDS) == ExitCode.REQUEUE
    finally:
        rank.kill()
    saved = checkpoints_of(run)[0]
    assert verify_checkpoint(saved) is None and saved.name == name_of(steps(run)[-1]["step"])
    assert json.loads((run / "interrupted.json").read_text())["reason"].startswith("SIGINT")


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_the_launcher_forwards_a_signal_and_the_run_can_continue(number, keyboard, whole, tmp_path):
    run = tmp_path / "run"
    launcher = start_cli(*ZERO2, f"output_dir={run}", ranks=2)
    try:
        assert reached(run, 2, [launcher])
        # deepspeed's front process ignores TERM, so it is sent to the process group, as Ctrl-C is.
        os.killpg(launcher.pid, number)
        asked = time.monotonic()
        assert launcher.wait(SECONDS) != 0 and time.monotonic() - asked < 30
    finally:
        if launcher.poll() is None:
            os.killpg(launcher.pid, 9)
    deadline = time.monotonic() + 30
    while not (run / "interrupted.json").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (run / "interrupted.json").exists() and verify_checkpoint(checkpoints_of(run)[0]) is None
    assert [process.wait(300) for process in start_ranks(2, *ZERO2, f"output_dir={run}")] == [0, 0]
    assert same(run, whole)


@pytest.fixture
def small_disk(tmp_path, request):
    """Mounts a disk of `request.param` KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={request.param}k", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def on(small_disk, choice):
    done = run_cli(*ZERO2, f"output_dir={small_disk}/run", f"train.on_save_failure={choice}", "train.keep_last=1")
    assert "could not be written" in done.stderr and "MiB are free there" in done.stderr and "Traceback" not in done.stderr
    return done


# Room for one checkpoint but not for two.
@pytest.mark.parametrize("small_disk", [4700], indirect=True)
@pytest.mark.parametrize("choice, code", [("stop", ExitCode.FAILED), ("continue", ExitCode.OK)])
def test_a_full_disk_is_reported_once_and_keeps_the_last_checkpoint(small_disk, choice, code):
    done = on(small_disk, choice)
    assert done.returncode == code, done.stderr[-3000:]
    (kept,) = checkpoints_of(small_disk / "run")
    assert kept.name == "step-00000003" and verify_checkpoint(kept) is None
    assert (small_disk / "run" / "results.json").exists() == (choice == "continue")


@pytest.mark.parametrize("small_disk", [1300], indirect=True)
def test_a_disk_with_room_for_one_model_and_no_checkpoint_ends_with_the_results_of_that_model(small_disk):
    done = on(small_disk, "continue")
    assert done.returncode == ExitCode.OK, done.stderr[-3000:]
    results = json.loads((small_disk / "run" / "results.json").read_text())
    assert results["export"]["step"] == 3 and results["export"]["reproduces_reported"]
    assert checkpoints_of(small_disk / "run") == [] and "training goes on without it" in done.stderr


@pytest.mark.parametrize("small_disk", [600, 4], indirect=True)
def test_a_disk_without_room_for_a_model_or_for_any_file_ends_a_run_with_one_message(small_disk):
    done = on(small_disk, "continue")
    assert done.returncode == ExitCode.FAILED and done.stderr.count("\nstopped: ") == 1, done.stderr[-3000:]
