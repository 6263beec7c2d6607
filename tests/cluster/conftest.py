"""Two nodes and a head with sshd and SLURM, started once for all tests, and an undisturbed run."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from tests.cluster.hosts import Network, why_not
from tests.cluster.runs import Run
from tests.cluster.slurm import Slurm
from tests.support.launch import environment


@pytest.fixture(scope="session")
def network():
    if reason := why_not():
        pytest.skip(f"no hosts of our own: {reason}")
    # Not in pytest's folder: names of sockets must be short, and munge needs a path that everybody may enter.
    folder = Path(tempfile.mkdtemp(prefix="mat-ds-"))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    network = Network(folder, ("node1", "node2"), environment(PATH=path))
    try:
        network.start()
        yield network
    finally:
        network.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def slurm(network):
    slurm = Slurm(network)
    try:
        slurm.start()
    except TimeoutError as error:
        pytest.fail(f"{error}\n{slurm.logs()}")
    return slurm


@pytest.fixture
def run(request, tmp_path):
    """A run for one test; if the test fails, the output of its ranks is printed."""
    run = Run(tmp_path / "a run")
    yield run
    print(run.printed())


@pytest.fixture(scope="session")
def whole(slurm, tmp_path_factory):
    """The undisturbed run with which others are compared: `slurm/train.sbatch` on two nodes."""
    run = Run(tmp_path_factory.mktemp("whole") / "a run")
    state = slurm.wait_for(run.submit(slurm, "train.sbatch"))
    assert state == ("COMPLETED", "0:0"), run.printed()
    return run
