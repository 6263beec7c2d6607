"""The watchdog ends only processes that cannot end themselves, and then prints one line."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mat_ds.ranks import watchdog

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is a watchdog where there is /proc")

ALONE = f"import sys; sys.path.insert(0, {str(Path(watchdog.__file__).parent)!r}); import watchdog\n"
# The same program with shorter waits.
QUICK = f"""{ALONE}
watchdog.LOOK, watchdog.GRACE, watchdog.LEAVE, watchdog.NOTICE = 0.05, 0.5, 1, 1
watchdog.main(sys.argv[1:])
"""
# A process that starts another, prints its process number, and then sleeps.
LAUNCH = """
import subprocess, sys, time
child = subprocess.Popen(sys.argv[1:])
print(child.pid, flush=True)
time.sleep(60)
"""
IDLE = [sys.executable, "-c", "import time\nwhile True: time.sleep(0.01)"]
DEAF = [sys.executable, "-c", "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nwhile True: time.sleep(0.01)"]


def watch(rank, *above, seconds=0.5):
    numbers = map(str, (rank, *above))
    dog = subprocess.Popen(
        [sys.executable, "-c", QUICK, "rank 7", str(seconds), *numbers],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until_it_watches(dog.pid)
    return dog


def wait_until_it_watches(pid):
    while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE and not ignores_signals(pid):
        time.sleep(0.02)


def ignores_signals(pid):
    (mask,) = re.findall(r"SigIgn:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return int(mask, 16) >> (signal.SIGUSR2 - 1) & 1  # the last of them


@pytest.fixture
def started():
    """Starts processes, which are killed at the end of the test."""
    processes = []

    def start(command):
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def launched(tmp_path, started, request):
    """(launcher process, process number of its rank); the launcher is recognised by its name."""
    (tmp_path / "torchrun").write_text(LAUNCH)
    launcher = started([sys.executable, str(tmp_path / "torchrun"), *getattr(request, "param", IDLE)])
    return launcher, int(launcher.stdout.readline())


def ended(pid, within):
    deadline = time.monotonic() + within
    while not (gone := not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE):
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return gone


def test_a_rank_stopped_for_too_long_is_killed_and_a_busy_or_briefly_stopped_one_is_not(started):
    rank = started(IDLE)
    dog = watch(rank.pid)
    time.sleep(1.5)
    rank.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    rank.send_signal(signal.SIGCONT)
    time.sleep(1.5)
    assert rank.poll() is None and dog.poll() is None
    rank.send_signal(signal.SIGSTOP)
    assert rank.wait(10) == -signal.SIGKILL
    output = dog.communicate(timeout=10)[1]
    assert output.strip().count("\n") == 0 and output.startswith("\nwatchdog: rank 7 is killed: it is stopped")


def test_it_survives_signals_to_the_process_group_and_ends_silently_with_its_rank(started):
    rank = started(IDLE)
    dog = watch(rank.pid)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        dog.send_signal(number)
    time.sleep(0.5)
    assert dog.poll() is None
    rank.kill()
    rank.wait()
    assert dog.wait(5) == 0 and dog.stderr.read() == ""


@pytest.mark.parametrize("launched", [IDLE, DEAF], indirect=True, ids=["that ends on TERM", "that does not"])
def test_a_rank_whose_launcher_is_gone_is_ended(launched):
    launcher, rank = launched
    dog = watch(rank, launcher.pid)
    time.sleep(0.5)
    assert not ended(rank, 0)
    launcher.kill()
    launcher.wait()
    assert ended(rank, 5)
    output = dog.communicate(timeout=10)[1]
    assert "rank 7 is ended: its launcher" in output and output.count("watchdog:") == 1


@pytest.mark.parametrize("launched", [DEAF], indirect=True, ids=[""])
def test_a_rank_that_exits_after_its_launcher_is_not_disturbed(launched):
    launcher, rank = launched
    dog = watch(rank, launcher.pid)
    launcher.kill()
    launcher.wait()
    assert (dog.stderr.readline(), dog.stderr.readline()[:8]) == ("\n", "watchdog")
    started = time.monotonic()
    dog.communicate(".", timeout=10)
    assert time.monotonic() - started < 0.8 and not ended(rank, 0)
    os.kill(rank, signal.SIGKILL)


def test_a_launcher_that_ignores_the_end_of_its_rank_is_ended(launched):
    launcher, rank = launched
    dog = watch(rank, launcher.pid)
    os.kill(rank, signal.SIGKILL)
    assert launcher.wait(10) == -signal.SIGTERM
    assert "the launcher" in dog.communicate(timeout=10)[1]


def test_only_launchers_are_recognised_by_name_also_through_shells(tmp_path, started):
    find = tmp_path / "find.py"
    find.write_text(ALONE + "print(*(launcher.pid for launcher in watchdog.launchers()), flush=True)\n")
    assert watchdog.launchers() == ()
    script = tmp_path / "rank.sh"
    script.write_text(f"#!/bin/sh\n{sys.executable} {find}\ntrue\n")
    script.chmod(0o755)
    for name, known in (("torchrun", True), ("deepspeed", True), ("sweep.py", False)):
        (tmp_path / name).write_text(LAUNCH)
        for shell in (["sh", "-c", f"{sys.executable} {find}; true"], [str(script)]):
            launcher = started([sys.executable, str(tmp_path / name), *shell])
            launcher.stdout.readline()
            assert launcher.stdout.readline().split() == ([str(launcher.pid)] if known else []), (name, shell)


def test_a_watched_process_has_one_small_watchdog_that_ends_with_it():
    with watchdog.watched("rank 0", (), 60):
        (child,) = (each for each in psutil.Process().children() if watchdog.__file__ in each.cmdline())
        wait_until_it_watches(child.pid)
        loaded = Path(f"/proc/{child.pid}/maps").read_text()
        started = time.monotonic()
    assert "torch" not in loaded
    assert time.monotonic() - started < 2 and not child.is_running()
