"""The port at which ranks connect is one that the system does not give to other connections."""

import re
import socket
from pathlib import Path

import pytest

from mat_ds.errors import UserError
from mat_ds.ranks import ports
from mat_ds.sweeps.launching import Launching
from tests.support.launch import ROOT

GIVEN = Path("/proc/sys/net/ipv4/ip_local_port_range")


def test_trainings_that_start_together_get_ports_below_those_of_connections():
    first = int(GIVEN.read_text().split()[0])
    study = Launching(["deepspeed", "--quiet"], ROOT / "ds_configs/zero2.json", None, (), None)
    taken = []
    for _ in range(20):
        words = study.command(Path("runs/one"), [])
        taken.append(int(words[words.index("--master_port") + 1]))
    assert min(taken) >= 1024 and max(taken) < first and len(set(taken)) > 10


@pytest.mark.parametrize("given", ["--master_port=29511", "--master_port 29511", "--hostfile hosts", "-H hosts"])
def test_a_launcher_with_its_own_port_gets_none(given):
    launcher = ["deepspeed", *given.split(), "--quiet"]
    study = Launching(launcher, ROOT / "ds_configs/zero2.json", None, (), None)
    assert study.command(Path("runs/one"), [])[: len(launcher)] == launcher


@pytest.mark.parametrize(
    ("given", "expected"), [("10002\t65535", range(10_000, 10_002)), ("1024\t65532", range(65_533, 65_536))]
)
def test_a_port_in_use_is_skipped(given, expected, tmp_path, monkeypatch):
    """However few ports are free, one is found, even above those of connections."""
    monkeypatch.setattr(ports, "CONNECTIONS", tmp_path / "range")
    ports.CONNECTIONS.write_text(given)
    held = []
    try:
        for _ in expected:
            held.append(socket.create_server(("", ports.free_port())))
        assert {server.getsockname()[1] for server in held} == {*expected}
        with pytest.raises(UserError, match=re.escape("no port from")):
            ports.free_port()
    finally:
        for server in held:
            server.close()


@pytest.mark.parametrize("given", ["1024\t65535", "1024\t61000"])
def test_a_port_is_found_even_if_connections_may_use_nearly_all(given, tmp_path, monkeypatch):
    monkeypatch.setattr(ports, "CONNECTIONS", tmp_path / "range")
    ports.CONNECTIONS.write_text(given)
    assert ports.free_port() >= (61_001 if given.endswith("61000") else 10_000)


def test_without_a_known_range_of_connections_the_usual_one_is_avoided(tmp_path, monkeypatch):
    monkeypatch.setattr(ports, "CONNECTIONS", tmp_path / "none")
    assert all(ports.free_port() < 32_768 for _ in range(20))
