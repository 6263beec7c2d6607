"""Threads of ranks: idle ones do not occupy processors, and ranks share the processors of a machine."""

import os
import subprocess
import sys

import pytest
import torch

from mat_ds.ranks.exits import share_processors
from tests.support.launch import ROOT


def policy(before="", **variables):
    """OMP_WAIT_POLICY after `import mat_ds` in a new process."""
    kept = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    code = f"import os, sys\n{before}\nimport mat_ds\nprint(os.environ.get('OMP_WAIT_POLICY'))"
    env = {**kept, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout.strip()


def test_waiting_threads_do_not_spin_unless_the_user_or_an_earlier_import_of_torch_decided():
    assert policy() == "PASSIVE"
    assert policy(OMP_WAIT_POLICY="ACTIVE") == "ACTIVE"
    assert policy("sys.modules['torch'] = sys") == "None"  # torch has read it already


@pytest.mark.parametrize(("processors", "ranks", "threads"), [(6, 2, 3), (7, 2, 3), (2, 8, 1)])
def test_ranks_of_a_machine_share_the_processors_that_they_may_use(processors, ranks, threads, monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(processors)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    try:
        share_processors(ranks)
        assert torch.get_num_threads() == before
        monkeypatch.delenv("OMP_NUM_THREADS")
        share_processors(1)
        assert torch.get_num_threads() == before
        share_processors(ranks)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
