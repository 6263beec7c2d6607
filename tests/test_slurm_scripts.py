"""The shell scripts of slurm/, without SLURM: a task's rank, a job's run directory, and when a job is requeued."""

import os
import shlex
import shutil
import signal
import subprocess
import sys

import pytest

from tests.support.launch import ROOT

SHELLS = ("bash", "sh")


def rank(command, tasks="2(x3),1", node=0, ranks=7, first="first", **more):
    env = {
        **os.environ,
        "SLURM_PROCID": "5",
        "SLURM_STEP_NUM_TASKS": str(ranks),
        "SLURM_LOCALID": "1",
        "SLURM_JOB_ID": "40003",
        "SLURM_NODEID": str(node),
        "SLURM_STEP_TASKS_PER_NODE": tasks,
        "MASTER_ADDR": first,
    }
    return subprocess.Popen([ROOT / "slurm" / "rank.sh", *command], env=env, text=True, start_new_session=True, **more)


@pytest.mark.parametrize(
    ("tasks", "sizes"),
    [("4", [4]), ("2(x3),1", [2, 2, 2, 1]), ("1,3(x2)", [1, 3, 3]), ("16(x12)", [16] * 12), ("1,1,2", [1, 1, 2])],
)
def test_a_task_learns_the_number_of_tasks_on_its_node(tasks, sizes):
    say = ["sh", "-c", "echo $LOCAL_SIZE $LOCAL_WORLD_SIZE"]
    said = [rank(say, tasks, node, stdout=subprocess.PIPE).communicate()[0].split() for node in range(len(sizes))]
    assert said == [[str(size)] * 2 for size in sizes]


def test_a_task_learns_its_rank_and_the_address_and_arguments_stay_whole():
    say = 'echo "$RANK $WORLD_SIZE $LOCAL_RANK $MASTER_ADDR $MASTER_PORT $1"'
    told = rank(["sh", "-c", say, "sh", "a b"], stdout=subprocess.PIPE).communicate()[0]
    assert told == "5 7 1 first 10003 a b\n"


def test_a_chain_on_each_node_is_what_per_node_means_to_a_task():
    count = """if True:
        from mat_ds.ranks.world import World
        from mat_ds.runs.chains import chain_count
        from mat_ds.runs.options import RunConfig

        run = RunConfig.model_validate({"method": {"name": "mat", "chains": "per_node"}})
        print(chain_count(run, World.from_environment()))
        """
    told = rank([sys.executable, "-c", count], "4(x2)", 0, 8, "localhost", stdout=subprocess.PIPE).communicate()[0]
    assert told == "2\n"


@pytest.mark.parametrize(
    ("program", "number", "code"),
    [
        ("exit 75", None, 75),
        ("echo; kill -KILL $$", None, 137),
        ("echo; sleep 60", signal.SIGTERM, 1),  # srun ends it because another rank has failed
        ("echo; sleep 60", signal.SIGUSR1, 138),
        ("trap 'exit 75' TERM; echo; sleep 60 & wait", signal.SIGTERM, 75),
    ],
)
def test_a_task_ends_with_its_programs_code_unless_srun_ended_it(program, number, code):
    process = rank(["sh", "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if number:
        process.stdout.readline()
        os.killpg(process.pid, number)
    assert process.wait(20) == code


def put(folder, **programs):
    """Writes shell scripts that stand in for the programs of those names."""
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)


def job(shell, text, folder, state="JobState=RUNNING", **more):
    """Runs lines of a batch script, with stand-ins for SLURM's commands that print their arguments."""
    put(folder, scancel="", scontrol=f'[ "$1" = show ] && echo "{state}"; [ "$1" = show ] || echo "asked: $*"')
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "12", "SLURM_JOB_NAME": "my job", **more}
    return subprocess.run([shell, "-c", f". slurm/job.sh\n{text}"], cwd=ROOT, env=env, capture_output=True, text=True)


@pytest.fixture
def batch(tmp_path):
    """Runs a copy of a batch script, as SLURM does, outside the checkout; the programs it starts print their arguments."""
    home, bin_folder, here = (tmp_path / name for name in ("a place", "bin", "here"))
    for folder in (home, bin_folder, here):
        folder.mkdir()
    for name in ("mat_ds", "launch", "slurm", "ds_configs"):
        (home / name).symlink_to(ROOT / name)
    put(bin_folder, srun='printf "%s\\n" srun "$@"', scontrol="echo first", **{"mat-ds": 'printf "%s\\n" mat-ds "$@"'})

    def run(script, *arguments, **more):
        shutil.copy(ROOT / "slurm" / script, tmp_path / "slurm_script")
        env = {**os.environ, "PYTHONPATH": str(home), "PATH": f"{bin_folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "12"}
        env |= {"SLURM_JOB_NAME": "job", "SLURM_CPUS_PER_TASK": "4", "SLURM_JOB_NODELIST": "first", **more}
        return subprocess.run(
            ["bash", tmp_path / "slurm_script", *arguments], cwd=here, env=env, capture_output=True, text=True
        )

    run.home, run.bin_folder, run.folder = home, bin_folder, here
    return run


STEP = ["srun", "--kill-on-bad-exit=1", "--cpus-per-task=4"]


def test_a_job_in_any_folder_starts_the_ranks_of_the_package_that_its_python_imports(batch):
    step = [*STEP, f"{batch.home}/slurm/rank.sh", "python"]
    command = [f"{batch.home}/launch/train.py", "train.resume=auto", "output_dir=runs/job-12"]
    done = batch("train.sbatch", "--", "--recipe", "cola", "data.path=my data")
    assert done.stdout.splitlines() == [*step, *command, "--recipe", "cola", "data.path=my data"], done.stderr
    found = batch("train_torchrun.sbatch", "--", "seed=1").stdout.splitlines()
    assert found[:3] == STEP and found[-5:] == ["torchrun", *command, "seed=1"]
    (batch.folder / "sweep.txt").write_text("seed=1\n'data.path=my data' seed=2\n")
    task = {"SLURM_ARRAY_JOB_ID": "11", "SLURM_ARRAY_TASK_ID": "2"}
    command[2:] = ["--recipe", "cola", "output_dir=runs/job-11_2", "data.path=my data", "seed=2"]
    assert batch("sweep.sbatch", "sweep.txt", "--", "--recipe", "cola", **task).stdout.splitlines() == [*step, *command]
    worker = batch("sweep.sbatch", "mat-ds", "seeds", "--seeds", "5", **task).stdout.splitlines()
    assert worker[:3] == ["mat-ds", "seeds", "--launcher"] and worker[4:] == ["--seeds", "5"]
    assert shlex.split(worker[3]) == step


@pytest.mark.parametrize("script", ["train.sbatch", "train_torchrun.sbatch", "sweep.sbatch"])
def test_a_job_whose_python_has_no_mat_ds_says_so(script, batch):
    put(batch.bin_folder, python="exit 1")
    done = batch(script)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.splitlines() == [
        f"{batch.bin_folder}/python cannot import mat_ds: activate the environment that has it before sbatch"
    ]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_run_is_named_by_output_dir_or_after_its_job(shell, tmp_path):
    array = {"SLURM_ARRAY_JOB_ID": "11", "SLURM_ARRAY_TASK_ID": "3"}
    show = 'echo "$RUN"'
    assert job(shell, f"name_run seed=1; {show}", tmp_path).stdout == "runs/my job-12\n"
    assert job(shell, f"name_run; {show}", tmp_path, **array).stdout == "runs/my job-11_3\n"
    named = "name_run output_dir=first --recipe x.yaml 'output_dir=the last one'"
    assert job(shell, f"{named}; {show}", tmp_path, **array).stdout == "the last one\n"


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("state", "asked"),
    [
        ("JobState=RUNNING Reason=None", True),
        ("JobState=COMPLETING Reason=TimeLimit", True),
        ("JobState=COMPLETING Reason=None", False),
    ],
)
def test_an_interrupted_job_is_requeued_unless_it_was_cancelled(shell, state, asked, tmp_path):
    done = job(shell, f"RUN={tmp_path}; launch sh -c 'touch {tmp_path}/interrupted.json; exit 143'", tmp_path, state)
    assert done.returncode == 75 and ("asked: requeue 12" in done.stdout) == asked


@pytest.mark.parametrize("shell", SHELLS)
def test_a_task_of_an_array_requeues_itself_and_not_the_whole_array(shell, tmp_path):
    array = {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}
    done = job(shell, f"RUN={tmp_path}; launch sh -c 'touch {tmp_path}/interrupted.json'", tmp_path, **array)
    assert "asked: requeue 12_3\n" in done.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_a_job_that_was_not_interrupted_ends_with_the_programs_code(shell, tmp_path):
    (tmp_path / "interrupted.json").touch()  # from an earlier start
    for code in (0, 3):
        done = job(shell, f"RUN={tmp_path}; launch sh -c 'exit {code}'", tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
    told = job(shell, f"RUN={tmp_path}; launch sh -c 'kill -USR1 $PPID; sleep 0.5; exit 1'", tmp_path)
    assert told.returncode == 1 and "allow more --time" in told.stderr


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("signal_name", ["USR1", "TERM"])
def test_a_signal_to_a_job_reaches_its_worker_and_the_job_is_requeued(shell, signal_name, tmp_path):
    worker = f"trap 'exit 75' TERM; kill -{signal_name} $PPID; sleep 20 >/dev/null 2>&1 & wait"
    done = job(shell, 'work sh -c "$WORKER"', tmp_path, WORKER=worker)
    assert done.returncode == 75 and "asked: requeue 12" in done.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_a_worker_with_nothing_left_to_do_ends_its_job(shell, tmp_path):
    for code in (0, 1, 2):
        done = job(shell, f"work sh -c 'exit {code}'", tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.parametrize("shell", SHELLS)
def test_interrupted_json_of_another_job_requeues_nothing_and_is_kept(shell, tmp_path):
    file = tmp_path / "interrupted.json"
    for code in (2, 3, 4):  # it was refused, diverged or was displaced
        done = job(shell, f"RUN='{tmp_path}'; launch sh -c 'echo {{}} >> {file}; exit {code}'", tmp_path)
        assert done.returncode == code and "asked" not in done.stdout
    for writer, asked in (("13", False), ("12", True)):
        word = f'{{\\"reason\\": \\"x\\", \\"slurm_job_id\\": \\"{writer}\\"}}'
        done = job(shell, f"RUN='{tmp_path}'; launch sh -c 'echo \"{word}\" > {file}; exit 143'", tmp_path)
        assert ("asked: requeue 12" in done.stdout) == asked and done.returncode == (75 if asked else 143), done.stderr
    before = file.read_text()
    for code in (0, 1, 75, 143):  # the file is from an earlier start, and this one saved nothing
        done = job(shell, f"RUN='{tmp_path}'; launch sh -c 'exit {code}'", tmp_path)
        assert (done.returncode, "asked" in done.stdout, file.read_text()) == (code, False, before)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("code", [0, 1])
def test_a_run_that_continued_and_ended_is_not_requeued(shell, code, tmp_path):
    (tmp_path / "interrupted.json").write_text('{"reason": "x", "slurm_job_id": "12"}')  # a run that continues deletes it
    done = job(shell, f"RUN='{tmp_path}'; launch sh -c 'rm {tmp_path}/interrupted.json; exit {code}'", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_displaced_worker_ends_its_job(shell, tmp_path):
    done = job(shell, "work sh -c 'exit 4'", tmp_path)
    assert done.returncode == 4 and "asked" not in done.stdout
