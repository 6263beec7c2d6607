"""MLflow's variables decide where runs go, for all commands alike, unless an option does."""

import pytest
import yaml

from mat_ds.errors import UserError
from mat_ds.registry.connection import registry_uri, tracking_uri
from mat_ds.runs.load import load_run_config
from mat_ds.runs.options import combination_problems
from mat_ds.storage.rundir import RunDirectory
from mat_ds.sweeps.mirror import experiment_of, mirror_of, tracking_options
from mat_ds.tracking.trust import destination
from mat_ds.training.announce import place_lines

SERVER, OTHER = "http://127.0.0.1:5000", "https://mlflow.site/x"


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """No variable of MLflow's is set, and the working folder is empty."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_REGISTRY_URI", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def tracked(*options):
    """The address and the experiment of a run, and what decided them."""
    tracking = load_run_config(None, options).tracking
    settled = tracking.settled()
    return (settled.uri, settled.experiment), tuple(tracking.decided_by().values())


def test_an_option_wins_over_a_variable_and_a_variable_over_the_default(monkeypatch, tmp_path):
    assert tracked() == ((None, "mat_ds"), ("default", "default"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "grammar")
    assert tracked() == ((SERVER, "grammar"), ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"))
    given = (f"tracking.uri={OTHER}", "tracking.experiment=mat_ds")
    assert tracked(*given) == ((OTHER, "mat_ds"), ("tracking.uri", "tracking.experiment"))
    assert tracked("tracking.uri=none") == (("none", "grammar"), ("tracking.uri", "MLFLOW_EXPERIMENT_NAME"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///here.db")
    assert tracked()[0][0] == f"sqlite:///{tmp_path}/here.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert tracked()[0][0] is None


def test_the_run_writes_down_what_the_variables_decided_and_says_so(monkeypatch, tmp_path):
    run, folder = load_run_config(None, []), RunDirectory(tmp_path / "run")
    assert place_lines(folder, run.tracking)[1].endswith(f"at sqlite:///{tmp_path}/mlflow.db, experiment mat_ds")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "grammar")
    (_, line) = place_lines(folder, run.tracking)
    said = f"mirrored to MLflow at {SERVER} (MLFLOW_TRACKING_URI), experiment grammar (MLFLOW_EXPERIMENT_NAME)"
    assert " ".join(line.split()) == said
    written = run.tracked().model_dump(mode="json")["tracking"]
    assert (written["uri"], written["experiment"]) == (SERVER, "grammar")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"tracking": written}))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", OTHER)
    assert load_run_config(tmp_path / "config.yaml", []).tracking.settled().uri == SERVER


@pytest.mark.parametrize(
    "name, value, reason",
    [
        ("MLFLOW_TRACKING_URI", "file:///home/me/mlruns", "folder of files"),
        ("MLFLOW_TRACKING_URI", "http://me:secret@host", "contains credentials"),
        ("MLFLOW_EXPERIMENT_NAME", "x" * 501, "has more than 500 characters"),
    ],
)
def test_a_wrong_variable_is_refused_by_its_name_unless_an_option_wins(name, value, reason, monkeypatch):
    monkeypatch.setenv(name, value)
    (problem,) = combination_problems(load_run_config(None, []), 1)
    assert problem.key == name and reason in problem.reason and "secret" not in str(problem) and "***" not in problem.fix
    given = load_run_config(None, ["tracking.uri=none", "tracking.experiment=x"])
    assert not list(combination_problems(given, 1))


def test_a_run_folder_is_delivered_to_its_own_address_else_to_that_of_the_variable(monkeypatch, tmp_path):
    run, beside = tmp_path / "runs" / "one", f"sqlite:///{tmp_path}/runs/mlflow.db"
    run.mkdir(parents=True)
    assert [destination(run, own, None) for own in (None, "none", SERVER)] == [beside, None, SERVER]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", OTHER)
    assert [destination(run, own, None) for own in (None, "none", SERVER)] == [OTHER, None, SERVER]
    assert destination(run, None, SERVER) == destination(run, "none", SERVER) == SERVER  # `--uri`
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")  # not for a server that only the folder names
    assert destination(run, SERVER, None) == OTHER


def test_the_trials_of_a_sweep_go_where_the_variables_say(monkeypatch, tmp_path):
    run, folder = load_run_config(None, []), tmp_path / "search"
    assert (mirror_of(run, folder), experiment_of(run, folder)) == (
        f"sqlite:///{folder}/mlflow.db".replace("search/", ""),
        "search",
    )
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert mirror_of(run, folder) == "none"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "grammar")
    assert {f"tracking.uri={SERVER}", "tracking.experiment=grammar"} < set(tracking_options(run, folder, 0, None))
    given = load_run_config(None, [f"tracking.uri={OTHER}", "tracking.experiment=mat_ds"])
    assert (mirror_of(given, folder), experiment_of(given, folder)) == (OTHER, "mat_ds")


def test_the_registry_may_be_elsewhere_than_the_runs(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI"):
        registry_uri(None)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mlflow.db").touch()
    assert registry_uri(None) == tracking_uri(None) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)
    assert registry_uri(None) == tracking_uri(None) == SERVER
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", OTHER)
    assert (registry_uri(None), tracking_uri(None)) == (OTHER, SERVER)
    assert registry_uri(SERVER) == SERVER
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"sqlite:///{tmp_path}/nowhere.db")
    with pytest.raises(UserError, match="MLFLOW_REGISTRY_URI"):
        registry_uri(None)
