"""Inconsistent variables of a launcher are refused at once and by name, by every command that runs on ranks."""

import os
import socket
import subprocess
import sys
import time

import pytest

from mat_ds.errors import ExitCode, UserError
from mat_ds.ranks import launch
from mat_ds.ranks.world import World
from tests.support.launch import ROOT

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
RIGHT = {
    "RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


def world(monkeypatch, **variables):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    return World.from_environment()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (1, 4, 1, 2)),
        ({"LOCAL_SIZE": None, "LOCAL_WORLD_SIZE": "2"}, (1, 4, 1, 2)),
        ({"LOCAL_WORLD_SIZE": "2"}, (1, 4, 1, 2)),
        ({"LOCAL_SIZE": None}, (1, 4, 1, 4)),
        ({"MASTER_ADDR": "::1"}, (1, 4, 1, 2)),
        (dict.fromkeys(VARIABLES), (0, 1, 0, 1)),
        ({**dict.fromkeys(VARIABLES), "RANK": "0"}, (0, 1, 0, 1)),
        ({**RIGHT, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_SIZE": "1", "MASTER_PORT": "0"}, (0, 1, 0, 1)),
    ],
)
def test_variables_of_the_usual_launchers_are_understood(changes, expected, monkeypatch):
    found = world(monkeypatch, **{**RIGHT, **changes})
    assert (found.rank, found.size, found.local_rank, found.local_size) == expected


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"RANK": None}, ["RANK"]),
        ({"LOCAL_RANK": None}, ["LOCAL_RANK"]),
        ({"MASTER_ADDR": None, "MASTER_PORT": None}, ["MASTER_ADDR", "MASTER_PORT"]),
        ({**dict.fromkeys(VARIABLES), "WORLD_SIZE": "2"}, ["RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"]),
        ({"RANK": "4"}, ["RANK"]),
        ({"WORLD_SIZE": None}, ["RANK"]),
        ({"WORLD_SIZE": "0"}, ["WORLD_SIZE"]),
        ({"LOCAL_RANK": "2"}, ["LOCAL_RANK"]),
        ({"LOCAL_SIZE": "0", "LOCAL_RANK": "0"}, ["LOCAL_SIZE"]),
        ({"LOCAL_SIZE": "5"}, ["LOCAL_SIZE"]),
        ({"LOCAL_WORLD_SIZE": "3"}, ["LOCAL_SIZE"]),
        ({"MASTER_PORT": "0"}, ["MASTER_PORT"]),
        ({"MASTER_PORT": "65536"}, ["MASTER_PORT"]),
        ({"MASTER_ADDR": ""}, ["MASTER_ADDR"]),
        ({"MASTER_ADDR": "no.such.machine.invalid"}, ["MASTER_ADDR"]),
        ({"MASTER_ADDR": "node1:29500"}, ["MASTER_ADDR"]),
        ({"MASTER_ADDR": "a" * 70 + ".invalid"}, ["MASTER_ADDR"]),
        ({**dict.fromkeys(VARIABLES), "MASTER_ADDR": "no.such.machine.invalid"}, ["MASTER_ADDR"]),
        *(
            ({name: value}, [name])
            for name in (*VARIABLES[:5], "MASTER_PORT")
            for value in ("-1", "x", "", "1.0", " 1", "1_0", "\u0661", "9" * 5000)
        ),
    ],
)
def test_inconsistent_variables_are_refused_by_name(changes, named, monkeypatch):
    monkeypatch.setattr(launch, "ATTEMPTS", 1)
    began = time.monotonic()
    with pytest.raises(UserError) as told:
        world(monkeypatch, **{**RIGHT, **changes})
    assert list(dict.fromkeys(problem.key for problem in told.value.problems))[: len(named)] == named
    assert time.monotonic() - began < 15


def test_resolving_a_name_is_retried_after_a_temporary_failure_and_ends_if_there_is_no_answer(
    monkeypatch,
):
    asked = []

    def answers(*arguments, **options):
        asked.append(1)
        if len(asked) < 3:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(launch.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(socket, "getaddrinfo", answers)
    assert launch.unresolved("node1") is None and len(asked) == 3
    monkeypatch.undo()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: time.sleep(60))
    monkeypatch.setattr(launch, "RESOLVE_SECONDS", 0.1)
    assert "does not answer" in launch.unresolved("node1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("train", ["--ds_config", "ds_configs/zero2.json", "train.max_steps=1", "tracking.uri=none"]),
        ("evaluate", ["nowhere", "task=cola"]),
        ("doctor", []),
    ],
)
def test_every_command_for_ranks_refuses_them_at_once(script, arguments, tmp_path):
    env = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    env |= {"WORLD_SIZE": "2", "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [sys.executable, f"launch/{script}.py", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=100
    )
    said = done.stdout + done.stderr
    assert done.returncode == (ExitCode.FAILED if script == "doctor" else ExitCode.USER_ERROR), said
    assert all(name in said for name in ("RANK", "MASTER_ADDR", "MASTER_PORT")) and "Traceback" not in said
