"""Without `--uri` the registry is `runs/mlflow.db`, or the MLflow file of the last run below the current folder."""

import os
from unittest.mock import Mock

import pytest

from mat_ds.cli import main
from mat_ds.errors import ExitCode
from mat_ds.registry import versions
from mat_ds.registry.latest import default_address
from mat_ds.registry.versions import Registered
from tests.support.tracked import make_run

MADE = 10**9


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def mirrored(folder, age, uri=None):
    """A run, with the file that MLflow is about to fill beside it."""
    run = make_run(folder, uri=uri)
    (folder.parent / "mlflow.db").touch()
    run.events.touch()
    os.utime(run.events, (MADE - age, MADE - age))
    return run


def test_the_file_of_the_newest_run_is_found_and_said(here, capsys):
    for name, age in (("old", 3), ("new", 1), ("older", 5)):
        mirrored(here / name / "sweep" / "run", age)
    assert default_address() == f"sqlite:///{here}/new/sweep/mlflow.db"
    said = capsys.readouterr().err
    assert "of the last run here, new/sweep/run" in said and "--uri" in said


def test_runs_without_a_file_of_their_own_are_passed_over(here, capsys):
    mirrored(here / "good" / "run", 9)
    mirrored(here / "unmirrored" / "run", 1, uri="none")
    mirrored(here / "server" / "run", 2, uri="http://stranger:5000")
    mirrored(here / "foreign" / "run", 3, uri=f"sqlite:///{here}/elsewhere/not/there.db")
    mirrored(here / "torn" / "run", 4).config.write_text("tracking: [")
    mirrored(here / "lost" / "run", 5)
    (here / "lost" / "mlflow.db").unlink()
    (here / "link").mkdir()
    (here / "link" / "events.jsonl").symlink_to("nowhere")
    assert default_address() == f"sqlite:///{here}/good/mlflow.db"


def test_the_usual_file_comes_first_without_a_word(here, capsys):
    mirrored(here / "runs" / "first", 9)
    mirrored(here / "new" / "run", 1)
    assert default_address() == "sqlite:///runs/mlflow.db" and not capsys.readouterr().err


def test_an_alias_is_set_in_the_registry_in_which_the_version_was_looked_up(here, monkeypatch, capsys):
    mirrored(here / "new" / "run", 1)
    used = []
    monkeypatch.setattr(versions, "registered_versions", lambda name, uri: [used.append(uri), Registered(name, 1, [], {})][1:])
    monkeypatch.setattr(versions, "client_of", lambda uri: [used.append(uri), Mock()][1])
    assert main(["promote", "grammar", "1", "--alias", "champion"]) == ExitCode.OK
    assert used == 2 * [f"sqlite:///{here}/new/mlflow.db"] and capsys.readouterr().err.count("of the last run here") == 1


@pytest.mark.parametrize("command", [["models"], ["promote", "grammar", "1", "--alias", "champion"]])
def test_where_there_is_nothing_the_message_names_uri(command, here, capsys):
    assert default_address() is None
    assert main(command) == ExitCode.USER_ERROR
    assert "pass --uri sqlite:///<folder of runs>/mlflow.db" in capsys.readouterr().err
