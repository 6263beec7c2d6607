"""The batch scripts of slurm/ and `deepspeed --hostfile` as users call them, on two nodes with SLURM, sshd and a shared disk.

The tests are in one module, so that only one cluster is started when modules are distributed over processes.
"""

import json
import signal

import pytest

from mat_ds.storage.lock import holder_of
from mat_ds.sweeps.training import WORKER_LOCK
from tests.cluster.hosts import wait_until
from tests.cluster.runs import LONG, OPTIONS, SMALL, STEPS, Run

pytestmark = [pytest.mark.cluster, pytest.mark.dist]


def test_every_task_learns_its_rank_on_nodes_with_different_numbers_of_tasks(slurm):
    said = (
        'echo "$RANK/$WORLD_SIZE $LOCAL_RANK/$LOCAL_SIZE of $(hostname), meeting at $MASTER_ADDR, gpus $CUDA_VISIBLE_DEVICES"'
    )
    done = slurm.head.run("srun", "-n3", "-N2", "--gpus-per-node=2", "slurm/rank.sh", "sh", "-c", said)
    places = ("0/3 0/2 of node1", "1/3 1/2 of node1", "2/3 0/1 of node2")
    assert sorted(done.stdout.splitlines()) == [f"{place}, meeting at node1, gpus 0,1" for place in places]


def test_the_demo_is_trained_by_one_rank_on_each_of_two_nodes(whole):
    results, environment = whole.results(), json.loads((whole.path / "environment.json").read_text())
    assert (results["world_size"], results["steps"]) == (2, STEPS)
    assert "node1" in json.dumps(environment)
    assert not whole.interrupted.exists() and whole.starts() == 1


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("train.sbatch", "USR1"),
        pytest.param("train.sbatch", "TERM", marks=pytest.mark.slow),
        pytest.param("train_torchrun.sbatch", "USR1", marks=pytest.mark.slow),
    ],
)
def test_a_job_told_to_stop_saves_is_requeued_and_ends_like_an_undisturbed_one(script, told, slurm, whole, run):
    job = run.submit(slurm, script)
    run.wait_for_steps()
    slurm.cancel("--batch", f"--signal={told}", job)
    wait_until(run.interrupted.exists, 60, "saved")
    assert slurm.wait_for(job) == ("COMPLETED", "0:0")
    assert (slurm.describe(job)["Restarts"], run.starts()) == ("1", 2)
    assert run.ended_like(whole)


@pytest.fixture
def over_ssh(network, tmp_path):
    """Starts a run on both nodes with `deepspeed --hostfile`."""
    (tmp_path / "hostfile").write_text("".join(f"{name} slots=1\n" for name in network.nodes))
    carried = ("PATH", "OMP_NUM_THREADS", "DS_ACCELERATOR", "HF_HUB_OFFLINE")
    (tmp_path / "environment").write_text("".join(f"{name}={network.head.env[name]}\n" for name in carried))

    def start(run, *more):
        command = ("deepspeed", "--hostfile", tmp_path / "hostfile", "launch/train.py", *OPTIONS, f"output_dir={run.path}")
        return network.head.start(*command, *more, log=run.log, DS_ENV_FILE=str(tmp_path / "environment"))

    return start


def test_one_option_gives_each_node_a_chain_under_slurm_and_over_ssh(slurm, over_ssh, run, tmp_path):
    options, other = ("method.chains=per_node", "train.max_steps=4", "train.telemetry_every=2"), Run(tmp_path / "over ssh")
    assert slurm.wait_for(run.submit(slurm, "train.sbatch", options=options)) == ("COMPLETED", "0:0")
    assert over_ssh(other, *options).wait(300) == 0, other.printed()
    for each in (run, other):
        assert "within each of 2 chains" in " ".join(each.printed().split())
        apart = [record["chains_apart"] for record in each.records() if record["event"] == "telemetry"]
        assert len(apart) == 2 and apart[1] > apart[0] == 0  # the step size begins at 0
    assert other.ended_like(run)


def test_deepspeed_over_ssh_that_is_told_to_stop_saves_and_the_same_command_continues(over_ssh, whole, run):
    def start(*more):
        return over_ssh(run, "train.resume=auto", *more)

    # The ranks print at every step, also after pdsh, which reads their output, has ended.
    launched = start("train.telemetry_every=1")
    run.wait_for_steps()
    launched.process.send_signal(signal.SIGTERM)
    wait_until(run.interrupted.exists, 30, "saved")
    assert launched.wait(60) == 1
    run.wait_until_gone()
    assert start().wait(300) == 0, run.printed()
    assert run.starts() == 2 and run.ended_like(whole)


@pytest.mark.slow
def test_the_time_limit_requeues_a_job_that_got_no_earlier_signal(slurm, run):
    # SIGCONT, which does nothing, instead of USR1.
    job = run.submit(slurm, "train.sbatch", "--signal=B:CONT@1", options=LONG)
    run.wait_for_steps()
    slurm.limit(job, 1)
    wait_until(lambda: slurm.describe(job).get("Restarts") == "1", 240, "it is requeued")
    slurm.limit(job, "UNLIMITED")
    run.wait_for_a_second_life()
    assert run.is_seamless()
    slurm.cancel(job)
    run.wait_until_gone()


@pytest.mark.slow
def test_a_cancelled_job_saves_and_stays_cancelled_and_submitting_it_again_continues(slurm, whole, run):
    job = run.submit(slurm, "train.sbatch")
    run.wait_for_steps()
    slurm.cancel(job)
    wait_until(run.interrupted.exists, 30, "saved")
    assert slurm.wait_for(job)[0] == "CANCELLED"
    run.wait_until_gone()
    assert slurm.wait_for(run.submit(slurm, "train.sbatch")) == ("COMPLETED", "0:0")
    assert slurm.describe(job)["JobState"] == "CANCELLED"
    assert run.starts() == 2 and run.ended_like(whole)


@pytest.mark.slow
def test_a_job_told_to_stop_while_it_starts_is_not_requeued_for_ever(slurm, run):
    job = run.submit(slurm, "train.sbatch")
    wait_until(lambda: slurm.describe(job)["JobState"] == "RUNNING", 60, "it starts")
    wait_until(lambda: f"{job}.0" in slurm.steps_of(job), 60, "its ranks start")
    slurm.cancel("--batch", "--signal=USR1", job)
    assert slurm.wait_for(job)[0] == "FAILED"
    assert "allow more --time" in run.printed() and slurm.describe(job)["Restarts"] == "0"


@pytest.mark.slow
def test_a_wrong_option_ends_the_job_with_the_programs_exit_code(slurm, run):
    job = run.submit(slurm, "train.sbatch", "--ntasks-per-node=2", "--gpus-per-node=2", options=["train.batch_size=17"])
    assert slurm.wait_for(job) == ("FAILED", "2:0")
    assert "is not divisible by the 4 ranks" in run.printed()


@pytest.mark.slow
def test_each_task_of_a_sweep_trains_with_its_line_in_its_own_folder(slurm, tmp_path):
    named = tmp_path / "a name of its own"
    lines = ["seed=1", f'method.theta_steps=3 seed=2 "output_dir={named}"']
    (tmp_path / "sweep.txt").write_text("\n".join(lines))
    job = slurm.submit(*SMALL, "--array=1-3", f"--output={tmp_path}/%a.log", "slurm/sweep.sbatch", tmp_path / "sweep.txt", "--",
                       *OPTIONS, "train.max_steps=2", f"output_dir={tmp_path}/sweep")  # fmt: skip
    states = [slurm.wait_for(f"{job}_{task}") for task in (1, 2, 3)]
    assert states == [("COMPLETED", "0:0"), ("COMPLETED", "0:0"), ("FAILED", "2:0")], (tmp_path / "1.log").read_text()
    assert "line 3 of" in (tmp_path / "3.log").read_text()
    assert [run.results()["seed"] for run in (Run(tmp_path / "sweep" / "1"), Run(named))] == [1, 2]


@pytest.mark.slow
def test_tasks_of_an_array_share_a_search_and_a_requeued_one_continues_its_trial(slurm, tmp_path):
    folder, trial = tmp_path / "a search", Run(tmp_path / "a search" / "trial-0000")
    (tmp_path / "space.yaml").write_text("options: {method.lam: {choices: [0.5, 2.0, 4.0]}}\nsampler: grid\npruner: none\n")
    job = slurm.submit(*SMALL, "--array=1-2", f"--output={tmp_path}/%a.log", "slurm/sweep.sbatch", "mat-ds", "sweep", "--space",
                       tmp_path / "space.yaml", *OPTIONS, f"output_dir={folder}")  # fmt: skip
    trial.wait_for_steps()
    holder = holder_of(trial.path, WORKER_LOCK).owner.slurm_job
    told = next(f"{job}_{task}" for task in (1, 2) if slurm.describe(f"{job}_{task}")["JobId"] == holder)
    slurm.cancel("--batch", "--signal=USR1", told)
    wait_until(trial.interrupted.exists, 60, "saved")
    states = [slurm.wait_for(f"{job}_{task}") for task in (1, 2)]
    printed = "".join((tmp_path / f"{task}.log").read_text() for task in (1, 2))
    assert states == [("COMPLETED", "0:0")] * 2, printed
    restarts = {f"{job}_{task}": slurm.describe(f"{job}_{task}")["Restarts"] for task in (1, 2)}
    assert restarts.pop(told) == "1" and list(restarts.values()) == ["0"]
    found = json.loads((folder / "sweep.json").read_text())
    assert [trial["state"] for trial in found["trials"]] == ["complete"] * 3, printed
    assert (trial.starts(), trial.steps()) == (2, list(range(1, STEPS + 1))) and not trial.interrupted.exists()
    assert [Run(folder / f"trial-000{number}").starts() for number in (1, 2)] == [1, 1]


@pytest.mark.slow
def test_tasks_of_an_array_share_the_seeds(slurm, tmp_path):
    folder = tmp_path / "some seeds"
    job = slurm.submit(*SMALL, "--array=1-2", f"--output={tmp_path}/%a.log", "slurm/sweep.sbatch", "mat-ds", "seeds", "--seeds",
                       "2", *OPTIONS, "train.max_steps=2", f"output_dir={folder}")  # fmt: skip
    states = [slurm.wait_for(f"{job}_{task}") for task in (1, 2)]
    printed = "".join((tmp_path / f"{task}.log").read_text() for task in (1, 2))
    assert states == [("COMPLETED", "0:0")] * 2, printed
    assert [run["seed"] for run in json.loads((folder / "seeds.json").read_text())["runs"]] == [0, 1], printed
    assert [Run(folder / f"seed-{seed}").starts() for seed in (0, 1)] == [1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["slurmd", "node"])
def test_a_job_whose_node_dies_is_requeued_by_slurm_and_continues(fault, slurm, run):
    job = run.submit(slurm, "train.sbatch", options=LONG)
    run.wait_for_steps()
    # The node of rank 0, which holds the run's lock. The batch script runs there too.
    node = slurm.network.nodes["node1"]
    slurm.kill_slurmd(node) if fault == "slurmd" else slurm.network.lose(node)
    wait_until(lambda: slurm.describe(job).get("Restarts") == "1", 180, "it is requeued")
    # Tasks outlive their slurmd. It is started again after they have ended; normally a requeued job waits two minutes.
    run.wait_until_gone()
    if fault == "node":
        slurm.network.join(node)
    slurm.start_slurmd(node)
    run.wait_for_a_second_life()
    assert run.is_seamless()
    slurm.cancel(job)
    run.wait_until_gone()
    slurm.wait_for_nodes()
