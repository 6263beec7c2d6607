"""`deepspeed --hostfile` over pdsh and ssh, on two hosts that share a disk."""

import signal

import pytest

from tests.cluster.hosts import wait_until
from tests.cluster.runs import OPTIONS

pytestmark = [pytest.mark.cluster, pytest.mark.dist]
SAVED_SECONDS = 30


def test_deepspeed_over_ssh_that_is_told_to_stop_saves_and_the_same_command_continues(network, whole, run, tmp_path):
    (tmp_path / "hostfile").write_text("".join(f"{name} slots=1\n" for name in network.nodes))
    carried = ("PATH", "OMP_NUM_THREADS", "DS_ACCELERATOR", "HF_HUB_OFFLINE")
    (tmp_path / "environment").write_text("".join(f"{name}={network.head.env[name]}\n" for name in carried))
    command = ("deepspeed", "--hostfile", tmp_path / "hostfile", "launch/train.py", *OPTIONS, f"output_dir={run.path}",
               "train.resume=auto")  # fmt: skip

    def start(*more):
        return network.head.start(*command, *more, log=run.log, DS_ENV_FILE=str(tmp_path / "environment"))

    # Ranks that print at every step print after pdsh, their reader, has gone.
    launched = start("train.telemetry_every=1")
    run.wait_for_steps()
    launched.process.send_signal(signal.SIGTERM)
    wait_until(run.interrupted.exists, SAVED_SECONDS, "saved")
    assert launched.wait(60) == 1
    run.wait_until_gone()
    assert start().wait(300) == 0, run.printed()
    assert run.starts() == 2 and run.ended_like(whole)
