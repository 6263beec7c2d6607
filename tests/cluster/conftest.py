"""Two nodes and a head, started once for all tests: hosts with sshd, SLURM on them, and a run that nothing disturbs."""

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
    # Not below pytest's own folder: names of sockets must be short, and munge wants a path that all may walk.
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
    """A run of this test's own; what its ranks printed is shown where the test fails."""
    run = Run(tmp_path / "a run")
    yield run
    print(run.printed())


@pytest.fixture(scope="session")
def whole(slurm, tmp_path_factory):
    """The run that all others must end like: `slurm/train.sbatch` on two nodes, left alone."""
    run = Run(tmp_path_factory.mktemp("whole") / "a run")
    state = slurm.wait_for(run.submit(slurm, "train.sbatch"))
    assert state == ("COMPLETED", "0:0"), run.printed()
    return run
