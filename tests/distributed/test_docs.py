"""Every command of docs/ runs as written, page by page, in a folder with the project's files."""

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
    """A folder with the project's files, and a `deepspeed` on the path that parallel tests can use."""
    for name in ("launch", "ds_configs", "slurm", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    programs = tmp_path / "bin"
    programs.mkdir()
    # All launchers have the same default port.
    (programs / "deepspeed").write_text(
        f'#!/bin/sh\nexec {Path(sys.executable).parent}/deepspeed --master_port {free_port()} "$@"\n'
    )
    (programs / "deepspeed").chmod(0o755)
    return tmp_path


@pytest.mark.slow  # minutes each, and other tests cover every command
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
def test_every_command_is_in_a_block_that_the_test_runs(page):
    text = page.read_text(encoding="utf-8")
    assert not [block for block in BLOCK.findall(text) if re.search(r"^\$ ", block, re.M)], "a prompt is no part of a command"
    assert COMMAND.findall(BLOCK.sub("", text)) == []
