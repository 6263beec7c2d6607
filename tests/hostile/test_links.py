"""Circular links are refused by name by every command that takes a path."""

import os

import pytest

from mat_ds.cli import main
from mat_ds.errors import ExitCode
from tests.support.launch import ROOT

ZERO2 = ["--ds_config", str(ROOT / "ds_configs/zero2.json")]
COMMANDS = {
    "verify": ["verify", "ROUND"],
    "report": ["report", "ROUND"],
    "sync": ["sync", "ROUND"],
    "register": ["register", "ROUND", "name"],
    "prepare": ["prepare", "ROUND", "task=cola"],
    "predict": ["predict", "ROUND", "-"],
    "evaluate": ["evaluate", "ROUND"],
    "export": ["export", "ROUND", "new"],
    "sweep": ["sweep", "--space", "ROUND"],
    "ds_config": ["train", "--ds_config", "ROUND"],
    "recipe": ["train", *ZERO2, "--recipe", "ROUND"],
    "output_dir": ["train", *ZERO2, "output_dir=ROUND"],
    "resume": ["train", *ZERO2, "train.resume=ROUND"],
    "data": ["train", *ZERO2, "data.path=ROUND"],
    "within": ["verify", "ROUND/deeper"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_circular_links_are_refused_by_name(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.symlink("there", tmp_path / "back")
    os.symlink("back", tmp_path / "there")
    assert main([part.replace("ROUND", str(tmp_path / "there")) for part in COMMANDS[command]]) == ExitCode.USER_ERROR
    told = capsys.readouterr().err
    assert "there" in told and "circle of symbolic links" in told and "fix:" in told
