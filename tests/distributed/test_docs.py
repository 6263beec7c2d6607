"""Every command of docs/ runs as it stands, page by page, in a folder that has of the project what a user's has."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.launch import ROOT, environment, free_port

pytestmark = pytest.mark.dist

PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.M | re.S)
COMMAND = re.compile(r"^ {4}(?:\$ )?(?:mat-ds|deepspeed|python|torchrun|sbatch|mlflow|curl) ", re.M)


@pytest.fixture
def project(tmp_path):
    """The project's folder, and programs on the path that two tests at once can use."""
    for name in ("launch", "ds_configs", "slurm", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    programs = tmp_path / "bin"
    programs.mkdir()
    # The launcher's default port is the same for all that run at once.
    (programs / "deepspeed").write_text(
        f'#!/bin/sh\nexec {Path(sys.executable).parent}/deepspeed --master_port {free_port()} "$@"\n'
    )
    (programs / "deepspeed").chmod(0o755)
    return tmp_path


@pytest.mark.slow  # minutes each, and other tests run every command in other words
@pytest.mark.parametrize("page", [page for page in PAGES if "```sh" in page.read_text("utf-8")], ids=lambda page: page.stem)
def test_every_command_of_the_page_runs(page, project):
    env = environment()
    env["PATH"] = f"{project}/bin:{Path(sys.executable).parent}:{env['PATH']}"
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    assert blocks
    for block in blocks:
        done = subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", block], cwd=project, env=env, text=True, capture_output=True, timeout=600
        )
        assert done.returncode == 0, f"{block}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_there_is_no_command_that_is_not_run(page):
    assert COMMAND.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))) == []
