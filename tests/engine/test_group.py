"""The process group of a run that is one process."""

import os

import pytest
from torch import distributed

from mat_ds.engine.group import VARIABLES, process_group
from mat_ds.ranks.world import World


@pytest.mark.parametrize("before", [{}, {"MASTER_PORT": "1234", "RANK": "0"}])
def test_it_leaves_the_environment_as_it_was_also_after_an_error(before, monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ZeroDivisionError), process_group(World()):
        assert os.environ["WORLD_SIZE"] == "1" and os.environ["MASTER_ADDR"] == "127.0.0.1"
        raise ZeroDivisionError
    assert {name: os.environ[name] for name in VARIABLES if name in os.environ} == before
    assert not distributed.is_initialized()


def test_a_group_that_ends_late_leaves_what_the_next_one_was_given(monkeypatch):
    """As one in a thread that the doctor no longer waits for."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_PORT", "1234")
    with process_group(World()):
        monkeypatch.setenv("MASTER_PORT", "5678")
    assert os.environ["MASTER_PORT"] == "5678" and "RANK" not in os.environ
