"""Runs in folders with unusual names are delivered to the database next to them, and nowhere else."""

import sqlite3

import pytest
from mlflow import MlflowClient
from sqlalchemy import create_engine

from mat_ds.cli import main
from mat_ds.errors import ExitCode
from mat_ds.tracking.destination import absolute_uri, client_uri, database_file, default_uri, uri_problems
from mat_ds.tracking.history import runs_of
from tests.support.tracked import everything, live, make_run

NAMES = ["pct%20x", "%41", "100%", "a#b", "q?x", "a b", "é 中", "a&b=c", "a@b:c", "a'b", 'a"b', "a;b", "~"]


@pytest.mark.parametrize("name", NAMES)
def test_the_address_of_a_database_file_works_for_any_folder_name(name, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    uri = default_uri(folder / "run")
    assert database_file(uri) == folder / "mlflow.db" and absolute_uri(uri) == uri and not list(uri_problems("x", uri))
    # The file that SQLAlchemy opens for the address.
    engine = create_engine(client_uri(uri))
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE t (x INTEGER)")
    engine.dispose()
    assert sqlite3.connect(folder / "mlflow.db").execute("SELECT name FROM sqlite_master").fetchall() == [("t",)]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_path_pasted_into_an_address_without_escapes_is_the_existing_file(tmp_path):
    (tmp_path / "pct%20x").mkdir()
    assert database_file(f"sqlite:///{tmp_path}/pct%20x/m.db") == tmp_path / "pct%20x" / "m.db"
    (tmp_path / "pct x").mkdir()
    assert database_file(f"sqlite:///{tmp_path}/pct%20x/m.db") == tmp_path / "pct x" / "m.db"
    for uri in ("sqlite:///q?x/m.db", "sqlite:///", "sqlite:///x/", "sqlite:///a%00b"):
        assert len(list(uri_problems("x", uri))) == 1, uri


@pytest.mark.parametrize("name", ["pct%20x#?é", "a b%"])
def test_a_run_in_a_folder_with_any_name_is_delivered_with_its_files(name, tmp_path):
    run = make_run(tmp_path / name / f"run {name}", experiment=f"of {name}")
    live(run, 1, 4)
    assert main(["sync", str(run.path)]) == ExitCode.OK
    uri = client_uri(default_uri(run.path))
    info, _, _, files, metrics = everything(MlflowClient(uri), run)
    assert (info["status"], info["run_name"]) == ("FINISHED", f"run {name}") and len(metrics["train/loss"]) == 4
    assert "predictions/test.tsv" in files and [found.directory for found in runs_of(uri, f"of {name}")] == [run.path]
    # No file is named like the escaped address.
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert sorted(path.name for path in (tmp_path / name).iterdir()) == [
        "mlartifacts",
        "mlflow.db",
        "mlflow.db.lock",
        f"run {name}",
    ]


def test_an_older_sqlalchemy_that_keeps_escapes_passes_them_to_sqlite(tmp_path, monkeypatch):
    (tmp_path / "pct%20x").mkdir()
    monkeypatch.setattr("mat_ds.tracking.destination.version", lambda package: "2.0.58")
    address = client_uri(default_uri(tmp_path / "pct%20x" / "run"))
    database = address.removeprefix("sqlite+pysqlite:///").removesuffix("?uri=true")  # what the older version passes to SQLite
    sqlite3.connect(database, uri=True).execute("CREATE TABLE t (x INTEGER)")
    assert [path.name for path in (tmp_path / "pct%20x").iterdir()] == ["mlflow.db"]
