"""Only addresses that the user gave get credentials; a password in an address is neither printed nor stored."""

import json
import os
import re

import pytest
import yaml

from mat_ds.cli import main
from mat_ds.config.overrides import parse_overrides
from mat_ds.errors import ExitCode, Problem, UserError, masked
from mat_ds.runs.load import read_run_config
from mat_ds.runs.options import RunConfig, combination_problems
from mat_ds.tracking.content import params_of
from mat_ds.tracking.destination import shown_uri, uri_problems
from mat_ds.tracking.tracker import Tracker
from mat_ds.tracking.trust import credentials
from tests.hostile.listening import CANARY, SECRETS, Listener, carrying
from tests.support.run_folders import prepare
from tests.support.tracked import live, make_run

WITH_SECRETS = [
    "http://user:canary-5c1f@host", "https://canary-5c1f@host:5000/x", "http://host?token=canary-5c1f", "http://u:canary-5c1f",
    "http://host/?auth=canary-5c1f", "http://host/x?key=canary-5c1f", "http://host/#canary-5c1f", "http://h;pass=canary-5c1f",
    "http://user:canary-5c1f%40host", "http://user%3Acanary-5c1f%40host/", "http://u:p@canary-5c1f@host", "http://h/a@canary-5c1f",
    "http://user:can ary@canary-5c1f", "http://u:canary-5c1f\\@host", "HTTP://u:canary-5c1f@h", "http://u:%63anary-5c1f@h",
    "postgresql://u:canary-5c1f@h/db", "postgresql+psycopg2://h/db?password=canary-5c1f&x=1", "postgresql://h/db?pass=canary-5c1f",
    "postgresql://h/db?sslmode=require&key=canary-5c1f", "mysql://canary-5c1f:@h", "mysql+pymysql://h/db?passwd=canary-5c1f",
    "mysql://h/db?%70assword=canary-5c1f", "postgresql://h/db#canary-5c1f",
    "mssql+pyodbc:///?odbc_connect=DRIVER%3D%7BX%7D%3BUID%3Dsa%3BPWD%3Dcanary-5c1f", "mssql+pyodbc://sa:canary-5c1f@dsn",
    "mssql://h/db;UID=sa;PWD=canary-5c1f", "databricks://user:canary-5c1f", "databricks://canary-5c1f@h", 
    "databricks:canary-5c1f:x",
    "sqlite:///x.db?key=canary-5c1f", "sqlite+pysqlcipher://:canary-5c1f@/x.db?cipher=aes", "sqlite://u:canary-5c1f@/x.db",
    "file://u:canary-5c1f@h/x", "ftp://u:canary-5c1f@h", "s3://key:canary-5c1f@bucket", "//u:canary-5c1f@h", 
    "u:canary-5c1f@h:5000",
    "redis://:canary-5c1f@h", "http//u:canary-5c1f@h", "http:/u:canary-5c1f@h", " http://u:canary-5c1f@h",
    "http://u:canary-5c1f@h\n", "http://[u:canary-5c1f@h", "http://u:canary-5c1f@[::1]:5000",
    "http://u:12345canary-5c1f", "http://[::1]:80canary-5c1f", "u:1canary-5c1f", "postgresql://u:5432canary-5c1f", "http://h:443:canary-5c1f",
]  # fmt: skip
COMMANDS = {
    "sync": ["sync", "{run}", "--uri", "{uri}"],
    "register": ["register", "{run}", "name", "--uri", "{uri}"],
    "models": ["models", "--uri", "{uri}"],
    "promote": ["promote", "name", "1", "--alias", "best", "--uri", "{uri}"],
    "report": ["report", "--experiment", "x", "--uri", "{uri}", "--out", "{out}"],
}


@pytest.fixture
def listener():
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def secrets(monkeypatch, tmp_path):
    """Sets every secret to the canary, with another home folder."""
    for name in SECRETS:
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """Removes all secrets from the environment."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW_TRACKING", "AWS_", "DATABRICKS", "AZURE", "GOOGLE"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def run(tmp_path):
    run = make_run(tmp_path / "runs" / "one")
    live(run, 1, 2)
    return run


@pytest.mark.parametrize("uri", WITH_SECRETS)
def test_an_address_with_a_secret_is_refused_and_not_printed(uri):
    (problem,) = uri_problems("tracking.uri", uri)
    assert CANARY not in str(problem) and CANARY not in repr(problem) and "canary" not in shown_uri(uri)


@pytest.mark.parametrize("uri", [uri for uri in WITH_SECRETS if not re.search(r"%70|databricks:c|@canary|^u:1", uri)])
def test_a_secret_in_an_address_is_masked_within_any_text(uri):
    assert CANARY not in masked(f"ConnectionError: {uri} is not there") and CANARY not in masked(f"{{'uri': '{uri}'}}")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("uri", WITH_SECRETS[::6])
def test_every_command_refuses_an_address_with_a_secret_and_does_not_print_it(command, uri, run, tmp_path, capfd):
    before = sorted(tmp_path.rglob("*"))
    arguments = [part.format(run=run.path, uri=uri, out=tmp_path / "out") for part in COMMANDS[command]]
    assert main(arguments) == ExitCode.USER_ERROR
    said = capfd.readouterr()
    assert CANARY not in said.out + said.err and "--uri" in said.err and "Traceback" not in said.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "command",
    [
        ["models"],
        ["promote", "name", "1", "--alias", "best"],
        ["predict", "models:/a/1", "{file}"],
        ["report", "--experiment", "x", "--out", "{out}"],
    ],
)
@pytest.mark.parametrize("uri", ["http://user:canary-5c1f@127.0.0.1:9", "mssql+pyodbc://h?odbc_connect=PWD%3Dcanary-5c1f"])
def test_the_address_in_mlflow_tracking_uri_is_checked_too(command, uri, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    (tmp_path / "texts.txt").write_text("a text\n")
    assert main([part.format(file=tmp_path / "texts.txt", out=tmp_path / "out") for part in command]) == ExitCode.USER_ERROR
    said = capfd.readouterr()
    assert CANARY not in said.out + said.err and "MLFLOW_TRACKING_URI" in said.err and "Traceback" not in said.err


@pytest.mark.parametrize("option", [
    "tracking.url=http://u:canary-5c1f@h", "trackinguri=http://u:canary-5c1f@h", "tracking.uri http://u:canary-5c1f@h",
    "model.name.x=http://u:canary-5c1f@h", "seed=http://u:canary-5c1f@h", "data.password=canary-5c1f",
    "tracking.url=databricks://u:canary-5c1f", "tracking.uri=[http://u:canary-5c1f@h]",
])  # fmt: skip
def test_a_secret_in_a_mistyped_option_is_not_printed(option):
    run, problems = read_run_config(None, [option])
    problems += combination_problems(run, 1) if run else []
    assert problems and CANARY not in str(UserError(*problems))


def test_messages_contain_no_secret_of_the_environment_or_of_a_header(secrets):
    for text in (f"Invalid header value {CANARY}", f"Authorization: Bearer {CANARY}", f"http://h/{CANARY}/x", f"{CANARY!r}"):
        assert CANARY not in masked(text) and CANARY not in str(Problem("key", text, text, text))
    for text in ("is neither a flag nor key=value", "sqlite:////home/a@b/x.db", "http://[::1]:5000/x", "models:/a@champion"):
        assert masked(text) == text


def test_a_server_named_only_by_a_run_folder_gets_no_credentials(listener, secrets, run, capfd, monkeypatch):
    config = yaml.safe_load(run.config.read_text())
    config["tracking"]["uri"] = listener.uri
    run.config.write_text(yaml.safe_dump(config))
    for command in (["sync", str(run.path)], ["sync", str(run.path.parent)]):
        assert main(command) == ExitCode.USER_ERROR
        said = capfd.readouterr().err
        assert not listener.heard and "MLFLOW_TRACKING_TOKEN" in said and "--uri" in said and CANARY not in said
    assert main(["sync", str(run.path), "--uri", listener.uri]) == ExitCode.FAILED  # it is not an MLflow server
    assert listener.authorised and CANARY not in "".join(capfd.readouterr())
    listener.heard.clear()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{listener.uri}/")
    assert main(["sync", str(run.path)]) == ExitCode.FAILED and listener.authorised
    other = Listener()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other.uri)
    listener.heard.clear()
    assert main(["sync", str(run.path)]) == ExitCode.FAILED
    assert not listener.heard and other.authorised
    other.close()
    assert not carrying(run.path.parent)


def test_without_credentials_a_run_is_delivered_to_the_server_that_its_folder_names(listener, bare, run):
    config = yaml.safe_load(run.config.read_text())
    config["tracking"]["uri"] = listener.uri
    run.config.write_text(yaml.safe_dump(config))
    assert main(["sync", str(run.path)]) == ExitCode.FAILED and listener.heard and not listener.authorised


def test_credentials_are_looked_for_where_mlflow_finds_them(bare, tmp_path, monkeypatch):
    assert credentials("http://127.0.0.1:5000") == [] and credentials("sqlite:///x.db") == []
    for uri in ("postgresql://h/db", "databricks", "databricks://profile", "mysql://h/db"):
        assert credentials(uri)
    (tmp_path / ".netrc").write_text("machine mlflow.site login me password canary-5c1f\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert credentials("https://mlflow.site/x") and not credentials("https://other.site")
    (tmp_path / ".netrc").write_text("default login me password canary-5c1f\n")
    assert credentials("https://other.site") == [str(tmp_path / ".netrc")]
    (tmp_path / ".netrc").unlink()
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").write_text("[mlflow]\nmlflow_tracking_username = me\n")
    assert credentials("http://h") == ["~/.mlflow/credentials"]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    assert CANARY not in "".join(credentials("http://h")) and len(credentials("http://h")) == 2


def test_with_credentials_a_server_named_only_by_a_recipe_is_refused(listener, secrets, tmp_path, monkeypatch, capfd):
    recipe, space = tmp_path / "recipe.yaml", tmp_path / "space.yaml"
    recipe.write_text(f"tracking: {{uri: {listener.uri}}}\n")
    given = ["--ds_config", "ds_configs/zero2.json", "--recipe", str(recipe), f"output_dir={tmp_path}/run"]
    space.write_text("options: {method.lam: {choices: [1.0]}}\n")
    for command in (["train"], ["seeds", "--seeds", "1"], ["sweep", "--space", str(space)]):
        assert main([*command, *given]) == ExitCode.USER_ERROR, command
        said = capfd.readouterr().err
        assert "recipe.yaml" in said and "tracking.uri" in said and CANARY not in said
    space.write_text(f"options: {{tracking.uri: {{choices: ['{listener.uri}']}}}}\n")
    assert main(["sweep", "--space", str(space), "--ds_config", given[1], f"output_dir={tmp_path}/s"]) == ExitCode.USER_ERROR
    assert "the tracking of trials" in capfd.readouterr().err
    assert not listener.heard and not (tmp_path / "run").exists()
    assert parse_overrides([f"tracking.uri={listener.uri}"], RunConfig)[0] == {"tracking": {"uri": listener.uri}}


def test_a_password_in_an_older_runs_options_is_not_delivered(run):
    config = yaml.safe_load(run.config.read_text())
    config["tracking"]["uri"] = "http://me:canary-5c1f@host"
    starts = [{"changed": {}}, {"changed": {"tracking.uri": ["http://me:canary-5c1f@host", "none"]}}]
    assert CANARY not in json.dumps(params_of(config, starts))


def test_the_command_printed_after_a_failed_delivery_names_run_and_server(tmp_path, capfd, secrets):
    run = make_run(tmp_path / "a run", uri="http://127.0.0.1:9")
    with Tracker(keeps=True) as tracker:
        tracker.begin(run, 0, "http://127.0.0.1:9")
    tracker.settle()
    said = capfd.readouterr().err
    assert f"`mat-ds sync '{run.path}' --uri http://127.0.0.1:9`" in said and CANARY not in said
    assert not carrying(tmp_path)


def test_a_dry_run_neither_prints_nor_stores_a_secret(secrets, tmp_path, capfd):
    from mat_ds.ranks.world import World

    prepare(["--ds_config", "ds_configs/zero2.json", "tracking.uri=none", f"output_dir={tmp_path}/run"], World())
    assert CANARY not in "".join(capfd.readouterr()) and not carrying(tmp_path)
