"""Signals to stop: they are remembered, handlers are restored, Ctrl-C is answered, and a second one ends the process."""

import os
import select
import signal
import subprocess
import sys

import pytest

from mat_ds.terminal.stop_signals import SIGNALS, StopSignals
from tests.support.launch import ROOT


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_remembered_and_earlier_handlers_are_restored(number):
    heard = []
    before = {each: signal.signal(each, lambda number, frame: heard.append(number)) for each in SIGNALS}
    ours = signal.getsignal(number)
    try:
        with StopSignals() as stop_signals:
            assert stop_signals.received is None
            os.kill(os.getpid(), number)
            assert stop_signals.received == signal.Signals(number).name and not heard
        assert signal.getsignal(number) is ours
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_signals_ignored_at_the_start_stay_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop_signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop_signals.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_first_signal_is_the_reason_whatever_a_launcher_sends_after_it():
    with StopSignals() as stop_signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop_signals.received == "SIGUSR1"


@pytest.fixture
def program(processes):
    """Starts a program in which Ctrl-C is to be remembered, and which is `busy` with something; returns its process."""

    def start(busy, answers=True):
        text = (
            "import hashlib, signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
            "from mat_ds.terminal.stop_signals import StopSignals\n"
            f"with StopSignals(answers={answers}) as stop_signals:\n"
            f"    print('ready', flush=True)\n    {busy}\n    time.sleep(60)\n"
        )
        pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
        processes.append(subprocess.Popen([sys.executable, "-c", text], cwd=ROOT, text=True, **pipes))
        assert processes[-1].stdout.readline() == "ready\n"
        return processes[-1]

    return start


WAITS = "while not stop_signals.received: time.sleep(0.01)\n    print(stop_signals.received, flush=True)"


def test_the_second_ctrl_c_ends_the_process_at_once(program):
    process = program(WAITS)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline().strip() == "SIGINT"
    assert [process.stderr.readline() for _ in range(2)] == ["\n", "saving; again to quit\n"]
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == -signal.SIGINT
    assert process.stderr.read() == ""


def test_ctrl_c_is_answered_during_one_long_operation(program):
    # A call into C that lasts, and in which other threads can run, as a backward pass.
    process = program("hashlib.pbkdf2_hmac('sha256', b'x', b'y', 10**9)")
    process.send_signal(signal.SIGINT)
    assert select.select([process.stderr], [], [], 20)[0] and process.stderr.readline() + process.stderr.readline() == (
        "\nsaving; again to quit\n"
    )
    assert process.poll() is None


def test_one_rank_answers(program):
    process = program(WAITS, answers=False)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline().strip() == "SIGINT"
    process.kill()
    assert process.communicate()[1] == ""
