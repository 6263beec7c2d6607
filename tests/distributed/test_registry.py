"""The registry on a real MLflow server: a version needs neither its run nor the hub, and predicts as `mat-ds predict` does."""

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import uvicorn
from mlflow import MlflowClient, artifacts, pyfunc
from mlflow.pyfunc import scoring_server

from mat_ds.cli import main
from mat_ds.errors import ExitCode, UserError
from mat_ds.registry.versions import promote, register, registered_versions
from mat_ds.tasks.registry import TASKS
from tests.support.heads import HEADS, adapter_run, alike, finished_run, texts_of
from tests.support.launch import environment, free_port
from tests.support.mlflow_server import answers_of, server, start, stop

__all__ = ["server"]  # a fixture

pytestmark = pytest.mark.dist

LOAD = """
import json, sys
import mlflow.pyfunc
for name, texts in json.load(sys.stdin).items():
    print(mlflow.pyfunc.load_model(f"models:/{name}@champion").predict(texts).to_json(orient="records", double_precision=15))
"""


def inputs(task):
    """The texts as MLflow takes them."""
    texts = texts_of(task)
    return [row[0] for row in texts] if len(texts[0]) == 1 else [{"text": a, "text_pair": b} for a, b in texts]


@pytest.fixture(scope="module")
def champions(server, tmp_path_factory):
    """Predictions of a run of each kind of head and of one with adapters; the runs are registered, promoted, then deleted."""
    folder = tmp_path_factory.mktemp("runs")
    runs = {task: finished_run(folder / task, task) for task in HEADS} | {"lora": adapter_run(folder / "lora", folder / "base")}
    expected = {name: answers_of(run, "cola" if name == "lora" else name, folder) for name, run in runs.items()}
    for name, run in runs.items():
        assert main(["register", str(run), name, "--uri", server]) == ExitCode.OK
        assert main(["promote", name, "1", "--alias", "champion", "--uri", server]) == ExitCode.OK
    shutil.rmtree(folder)
    return expected


def test_a_version_has_all_metadata_and_no_path_of_this_machine(champions, server, tmp_path):
    client = MlflowClient(server)
    for name in champions:
        found = client.get_model_version_by_alias(name, "champion")
        mirror = client.get_run(found.run_id)
        assert (mirror.info.status, mirror.info.start_time, mirror.info.end_time) == ("FINISHED", 10**12, 10**12 + 60_000)
        assert mirror.data.params["task"] == found.tags["mat_ds.task"]
        task = "cola" if name == "lora" else name
        assert {
            "mat_ds.score": "0.5",
            "mat_ds.median_last_half": "0.45",
            "mat_ds.task": task,
            "mat_ds.dev_sha256": "dev",
            f"mat_ds.{TASKS[task].dev[0]}.{TASKS[task].metrics[0]}": "0.5",
        }.items() <= found.tags.items()
        # MLflow compares models by the scores of the exported step, which stand once in the run.
        model_id = mirror.outputs.model_outputs[-1].model_id
        (score,) = [metric for metric in client.get_logged_model(model_id).metrics if metric.key == "eval/score"]
        assert (score.value, score.step, score.dataset_name, score.dataset_digest) == (0.5, 4, TASKS[task].name, "dev")
        history = client.get_metric_history(found.run_id, "eval/score")
        assert [(point.step, point.timestamp) for point in history] == [(s, 10**12 + 10_000 * s) for s in (2, 4, 6)]
        inputs = {entry.tags[0].value: entry.dataset.digest for entry in mirror.inputs.dataset_inputs}
        assert inputs == {"training": "all of it", "evaluation": "dev"}
        folder = Path(artifacts.download_artifacts(f"models:/{name}@champion", dst_path=str(tmp_path)))
        assert {"MLmodel", "requirements.txt", "model_card.md", "input_example.json"} <= {
            path.name for path in folder.iterdir()
        }
        pins = (folder / "requirements.txt").read_text().splitlines()
        assert {pin.partition("==")[0] for pin in pins} >= {"mlflow", "torch", "transformers"}
        assert all("==" in pin and "+" not in pin for pin in pins)
        described = (folder / "MLmodel").read_text()
        assert "pipeline_model_type: RobertaForSequenceClassification" in described and "signature:" in described
        assert (folder / "adapter" / "adapter_config.json").exists() == (name == "lora")
        texts = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".safetensors", ".pyc")]
        telling = [path.name for path in texts if b"/tmp" in path.read_bytes() and path.parent.name != "adapter"]
        assert not telling
        shutil.rmtree(folder)


def test_the_champion_predicts_as_the_deleted_run_did_without_the_hub(champions, server, tmp_path):
    assert main(["export", "models:/cola@champion", str(tmp_path / "copy")]) == ExitCode.OK
    alike(answers_of(tmp_path / "copy", "cola", tmp_path), champions["cola"])
    asked = {name: inputs("cola" if name == "lora" else name) for name in champions}
    done = subprocess.run([sys.executable, "-c", LOAD], input=json.dumps(asked), text=True, capture_output=True, timeout=300,
                          env=environment(PYTHONPATH="", MLFLOW_TRACKING_URI=server), cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for line, (name, expected) in zip(done.stdout.splitlines(), champions.items(), strict=True):
        alike(json.loads(line), expected)
        alike(answers_of(f"models:/{name}@champion", "cola" if name == "lora" else name, tmp_path), expected)


def ask(port, texts):
    """The answers of a served model."""
    body = {"inputs": texts} if isinstance(texts[0], str) else {"dataframe_records": texts}
    where, kind = f"http://127.0.0.1:{port}/invocations", {"Content-Type": "application/json"}
    with urlopen(Request(where, json.dumps(body).encode(), kind), timeout=60) as response:
        return json.load(response)["predictions"]


def test_a_champion_served_by_mlflow_answers_over_http(champions, server, tmp_path):
    command, port = ("models", "serve", "-m", "models:/cola@champion", "--env-manager", "local"), free_port()
    serving = start(*command, port=port, health="ping", log=tmp_path / "log", MLFLOW_TRACKING_URI=server)
    try:
        alike(ask(port, inputs("cola")), champions["cola"])
    finally:
        stop(serving)


@pytest.mark.parametrize("task", [task for task in HEADS if task != "cola"])
def test_mlflows_server_in_this_process_answers_over_http(task, champions, server, monkeypatch):
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")  # MLflow sets it and leaves it set
    app = scoring_server.init(pyfunc.load_model(f"models:/{task}@champion"))
    serving = uvicorn.Server(uvicorn.Config(app, port=free_port(), log_level="warning"))
    (thread := threading.Thread(target=serving.run)).start()
    try:
        while thread.is_alive() and not serving.started:
            time.sleep(0.05)
        alike(ask(serving.config.port, inputs(task)), champions[task])
    finally:
        serving.should_exit = True
        thread.join(30)


def test_only_a_version_with_no_lower_score_on_the_same_dev_set_becomes_champion(champions, server, capsys):
    client = MlflowClient(server)
    source = client.get_model_version_by_alias("cola", "champion")
    client.create_registered_model("rules")
    model_id = source.source.split("/")[-2]
    for score, dev in ((0.5, "one"), (0.4, "one"), (0.5, "one"), (0.9, "two"), (None, None)):
        tags = {"mat_ds.score": str(score), "mat_ds.dev_sha256": dev} if dev else {}
        client.create_model_version("rules", source.source, source.run_id, tags, model_id=model_id)

    def champion():
        return next(entry.version for entry in registered_versions("rules") if "champion" in entry.aliases)

    promote("rules", 1, "champion")
    for version, reason in ((2, "0.4, below"), (4, "not comparable"), (5, "not comparable"), (9, "there are: 1, 2, 3, 4, 5")):
        with pytest.raises(UserError, match=reason):
            promote("rules", version, "champion")
        assert champion() == 1
    assert "in the place of version 1" in promote("rules", 3, "champion") and champion() == 3
    promote("rules", 4, "champion", force=True)
    assert champion() == 4 and "is champion already" in promote("rules", 4, "champion")
    promote("rules", 2, "shadow")
    capsys.readouterr()
    assert main(["models", "rules"]) == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["model", "aliases"] and len(lines) == 6
    assert "rules/4" in lines[4] and "champion" in lines[4] and "0.9000" in lines[4] and "shadow" in lines[2]
    assert main(["models", "rules", "--json"]) == ExitCode.OK
    found = {entry["version"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert "champion" in found[4]["aliases"] and found[4]["tags"]["mat_ds.score"] == "0.9"


def test_versions_are_compared_by_their_scores_and_a_restarted_run_is_refused(champions, server, tmp_path, capsys):
    runs = [finished_run(tmp_path / str(score), "cola", score=score) for score in (0.6, 0.5)]
    for run in (*runs, runs[0]):
        assert main(["register", str(run), "as.good", "--uri", server]) == ExitCode.OK
    promoting = [["promote", "as.good", str(version), "--alias", "champion"] for version in (1, 2, 3)]
    assert [main(command) for command in promoting] == [ExitCode.OK, ExitCode.USER_ERROR, ExitCode.OK]
    of_one_run = {entry.tags["mat_ds.run_id"] for entry in registered_versions("as.good") if entry.version != 2}
    assert len(of_one_run) == 1 and "it scores 0.5, below version 1" in capsys.readouterr().err
    with (runs[0] / "events.jsonl").open("a") as events:
        events.write('{"event": "start", "step": 6, "time": 1000000100.0}\n')
    assert main(["register", str(runs[0]), "as.good", "--uri", server]) == ExitCode.USER_ERROR
    assert "was restarted" in capsys.readouterr().err


def test_wrong_runs_versions_and_addresses_are_refused(champions, server, tmp_path, capsys):
    run = finished_run(tmp_path / "run", "cola")
    (run / "results.json").write_text("{}")
    for command, reason in (
        (["register", run, "cola"], "has not finished"),
        (["models", "nothing"], "nothing"),
        (["predict", "models:/cola@nobody", run / "config.yaml", "--format", "text"], "nobody"),
        (["register", tmp_path, "cola"], "is not a run folder"),
        (["models", "--uri", f"sqlite:///{tmp_path}/nowhere.db"], "there is no such file"),
        (["register", run, "a/b"], "not allowed as the name of a registered model"),
    ):
        assert main([*map(str, command)]) == ExitCode.USER_ERROR
        assert reason in capsys.readouterr().err
    with pytest.raises(UserError, match="the registry"):
        register(finished_run(tmp_path / "whole", "cola"), "cola", f"http://127.0.0.1:{free_port()}")
