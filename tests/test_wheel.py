"""The wheel, installed where there is no checkout: it finds its packaged files, and trains.

It is installed into a new environment. Installing its dependencies there would take minutes and a network, so a .pth file adds
the site-packages of the environment that runs the tests. Python does not read .pth files in folders that were added in this
way, so an editable mat_ds of that environment stays hidden.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile

import pytest

from mat_ds.cli import COMMANDS
from tests.support.launch import ROOT, environment, free_port

pytestmark = pytest.mark.dist

LAID_BESIDE = ("ds_configs", "launch", "slurm")
SMALL = (
    "data.train_limit=64",
    "data.eval_limit=20",
    "train.batch_size=16",
    "train.micro_batch_size=8",
    "train.max_steps=1",
    "method.name=vanilla",
    "tracking.uri=none",
)
BUILD = "from setuptools import build_meta as b; print(b.build_sdist({0!r})); print(b.build_wheel({0!r}))"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel, built from the source distribution alone."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "checkout").mkdir()
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, folder / "checkout")
    for name in ("mat_ds", *LAID_BESIDE):
        shutil.copytree(ROOT / name, folder / "checkout" / name, ignore=shutil.ignore_patterns("__pycache__"))
    build(folder / "checkout", folder)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    (folder / "of_checkout").mkdir()
    next(folder.glob("*.whl")).rename(folder / "of_checkout" / "first.whl")
    build(source, folder)
    (wheel,) = folder.glob("*.whl")
    assert contents(wheel) == contents(folder / "of_checkout" / "first.whl")
    return wheel


def build(source, folder):
    subprocess.run([sys.executable, "-c", BUILD.format(str(folder))], cwd=source, check=True, capture_output=True)


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def python(built, tmp_path_factory):
    """The interpreter of an environment that has the wheel."""
    folder = tmp_path_factory.mktemp("installed") / "env"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--quiet", "--python", python, "install", "--no-deps", "--no-index", built]
    subprocess.run(command, check=True)
    site = subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True).strip()
    with open(os.path.join(site, "dependencies.pth"), "w") as file:
        file.write(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.fixture
def run(python, tmp_path):
    """Runs a program of that environment in an empty folder."""
    env = environment()
    del env["PYTHONPATH"]
    # The `deepspeed` program of the tests' environment would run another interpreter.
    env["PATH"] = f"{python.parent}:{env['PATH']}"

    def run(*command, code=0):
        program = shutil.which(command[0], path=env["PATH"])
        done = subprocess.run([program, *map(str, command[1:])], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def test_the_wheel_has_the_files_of_the_checkout_and_no_others(built):
    inside = contents(built)
    tracked = subprocess.run(["git", "ls-files", "mat_ds", *LAID_BESIDE], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("this is no git checkout")
    expected = {name if name.startswith("mat_ds/") else f"mat_ds/{name}": ROOT / name for name in tracked.stdout.split()}
    assert inside == {name: path.read_bytes() for name, path in expected.items() if path.exists()}
    assert "mat_ds/py.typed" in inside


def test_names_find_packaged_files(run, python):
    where = run("python", "-c", "import mat_ds, mat_ds.config.packaged as p; print(mat_ds.__file__, p.HOME)")
    assert all(path.startswith(str(python.parents[1])) for path in where.split())
    version = run("python", "-c", "from importlib.metadata import version; print(version('mat_ds'))").strip()
    assert run("mat-ds", "--version").strip() == f"mat_ds {version}"
    wrong = run("mat-ds", "train", "--recipe", "colla", "--ds_config", "zero9", code=2)
    assert "2 problems" in wrong and "'cola'" in wrong and "--ds_config = 'zero9'" in wrong
    plan = run("mat-ds", "plan", "--ds_config", "zero3", "--gpus", "2", "--gpu_memory", "16GB", "--link", "10Gb/s")
    assert "zero3_offload" in plan and "zero2" in plan
    found = json.loads(run("mat-ds", "doctor", "--json", "--ds_config", "zero1", "--recipe", "demo"))
    assert any("zero2" in row["found"] for row in found["rows"] if row["name"] == "--ds_config")
    # The example in the help of each command.
    assert (
        json.loads(run("python", ROOT / "tests" / "support" / "printed_examples.py").splitlines()[-1]).keys() == COMMANDS.keys()
    )


def test_a_copy_of_a_batch_script_starts_the_installed_program(run, tmp_path):
    """srun is replaced by a script that runs its command once, as a task would be run."""
    (tmp_path / "srun").write_text(
        '#!/bin/sh\nshift 2\nexport SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=1 SLURM_LOCALID=0\nexec "$@"\n'
    )
    (tmp_path / "srun").chmod(0o755)
    copy = 'cp "$(python -c "from mat_ds.config.packaged import HOME; print(HOME)")"/slurm/train.sbatch .'
    task = "PATH=.:$PATH SLURM_JOB_ID=7 SLURM_JOB_NAME=job SLURM_NODEID=0 SLURM_STEP_TASKS_PER_NODE=1 MASTER_ADDR=127.0.0.1"
    printed = run("sh", "-c", f"{copy} && {task} bash train.sbatch -- --recipe colla", code=2)
    assert "--recipe = 'colla'" in printed and "'cola'" in printed


def test_the_demo_trains_without_ds_config_recipe_or_data(run, tmp_path):
    run("mat-ds", "train", *SMALL, "output_dir=one")
    config = json.loads((tmp_path / "one" / "environment.json").read_text())["deepspeed_config"]
    assert config["zero_optimization"]["stage"] == 2
    assert (tmp_path / "one" / "results.json").exists()
    space = run(
        "mat-ds", "sweep", "--space", "demo", "--trials", "1", "--ds_config", "zero1", *SMALL[:-2], SMALL[-1], "output_dir=many"
    )
    assert len(json.loads((tmp_path / "many" / "sweep.json").read_text())["trials"]) == 1, space


def test_deepspeed_starts_ranks_without_a_checkout(run, tmp_path):
    launcher = ("python", "-m", "deepspeed.launcher.runner", "--num_gpus", "2", "--master_port", free_port())
    run(*launcher, "--module", "mat_ds.commands.train", "--ds_config", "zero1", *SMALL, "output_dir=two")
    known = json.loads((tmp_path / "two" / "environment.json").read_text())
    assert known["world_size"] == 2 and known["git_commit"] is None
