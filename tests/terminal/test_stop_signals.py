"""Signals to stop: they are remembered, handlers are restored, and a second Ctrl-C ends the process."""

import os
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


def test_the_second_ctrl_c_ends_the_process_at_once():
    program = (
        "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "from mat_ds.terminal.stop_signals import StopSignals\n"
        "with StopSignals() as stop_signals:\n"
        "    print('ready', flush=True)\n"
        "    while not stop_signals.received: time.sleep(0.01)\n"
        "    print(stop_signals.received, flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        for said in ("ready", "SIGINT"):
            assert process.stdout.readline().strip() == said
            process.send_signal(signal.SIGINT)
        assert process.wait(20) == -signal.SIGINT
    finally:
        process.kill()
        process.stdout.close()
