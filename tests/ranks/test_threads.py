"""Threads of ranks: idle ones do not occupy processors, and ranks share the processors of a machine."""

import os
import subprocess
import sys

import pytest
import torch

from mat_ds.ranks import processors as module
from mat_ds.ranks.processors import share_processors, usable_processors
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
    monkeypatch.setattr(module, "_quotas", lambda root: ())
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


def written(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "limits", "usable"),
    [
        ("0::/", {}, 8),
        ("0::/", {"cpu.max": "max 100000\n"}, 8),
        ("0::/", {"cpu.max": "300000 100000\n"}, 3),
        ("0::/", {"cpu.max": "20000 100000\n"}, 1),
        ("0::/job/step", {"job/cpu.max": "400000 100000\n", "job/step/cpu.max": "max 100000\n"}, 4),
        ("0::/", {"cpu.max": "6400000 100000\n"}, 8),
        ("4:memory:/a\n1:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "200000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 2),
        ("1:cpu:/a", {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 8),
        ("2:cpuset:/a", {"cpu.max": "100000 100000\n"}, 8),
        ("nonsense", {"cpu.max": "nonsense"}, 8),
    ],
)
def test_a_limit_of_processor_time_counts_as_fewer_processors(groups, limits, usable, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    files = {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{name}": text for name, text in limits.items()}}
    assert usable_processors(written(tmp_path, files)) == usable


def test_the_number_of_threads_is_set_before_torch_is_imported_and_only_if_the_user_has_not(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(module, "_quotas", lambda root: [4.0])
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delitem(sys.modules, "torch")
    share_processors(2)
    assert os.environ["OMP_NUM_THREADS"] == "7"
    for ranks, threads in ((2, "2"), (1, "4")):
        monkeypatch.delenv("OMP_NUM_THREADS")
        share_processors(ranks)
        assert os.environ["OMP_NUM_THREADS"] == threads
