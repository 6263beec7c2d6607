"""MLflow holds the same as the run directory, however often and in however many parts it was delivered."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from mlflow import MlflowClient

from mat_ds.cli import main
from mat_ds.errors import ExitCode, UserError
from mat_ds.registry.connection import errors_told
from mat_ds.storage.events import read_events
from mat_ds.storage.lock import RunLock
from mat_ds.tracking.content import DELIVERED, RUN_ID
from mat_ds.tracking.history import runs_of
from mat_ds.tracking.mirrored import own_id, read_tracking, turn_to_deliver
from mat_ds.tracking.replica import Replica
from tests.support.tracked import everything, found, history, live, make_run, resume


def sync(*runs, uri=None):
    return main(["sync", *(str(run.path) for run in runs), *(["--uri", uri] if uri else [])])


def place(record):
    return record["step"], record["event"]


def points(run, event, name):
    """(step, milliseconds, value) in the log of a run."""
    return [(r["step"], round(1000 * r["time"]), r[name]) for r in read_events(run.events) if r["event"] == event]


def test_a_run_delivered_twice_is_stored_once_as_it_was_logged(runs, client, capsys):
    run = make_run(runs / "whole", tags={"team": "nlp"})
    live(run, 1, 6)
    assert sync(run) == ExitCode.OK
    info, params, tags, files, metrics = everything(client, run)
    records = read_events(run.events)
    assert (info["status"], info["run_name"]) == ("FINISHED", "whole")
    assert (info["start_time"], info["end_time"]) == tuple(round(1000 * r["time"]) for r in (records[0], records[-1]))
    assert metrics["train/loss"] == points(run, "step", "loss") and len(metrics["train/loss"]) == 6
    assert metrics["telemetry/cosine"] == points(run, "telemetry", "cosine")
    assert [value for _, _, value in metrics["eval/average/accuracy"]] == [0.75] * 3
    assert [value for _, _, value in metrics["system/rank_1_memory_usage_megabytes"]] == [101.5 * 2**20 / 1e6] * 3
    assert metrics["results/best/score"] == [(6, info["end_time"], 0.5)] and "train/grad_norm" not in metrics
    assert params["train.epochs"] == "3.0" and params["model.lora"] == "null" and params["tracking.tags.team"] == "nlp"
    assert tags["team"] == "nlp" and tags["mat_ds.data_sha256"] == "da7a" and tags["mat_ds.package.torch"] == "2.13.0"
    assert tags["mlflow.source.git.commit"] == "c0ffee"
    assert tags["mlflow.note.content"].startswith("A run on demo, ") and "best 0.5000" in tags["mlflow.note.content"]
    assert files == ["config.yaml", "deepspeed.json", "environment.json", "predictions", "predictions/test.tsv", "results.json"]
    assert "20 events, 5 files -> run" in capsys.readouterr().out

    assert sync(run, run) == ExitCode.OK
    assert everything(client, run) == (info, params, tags, files, metrics)
    assert capsys.readouterr().out.count("nothing new") == 1

    # A batch whose tag was lost is sent again.
    client.set_tag(info["run_id"], DELIVERED, "0")
    assert sync(run) == ExitCode.OK and "20 events" in capsys.readouterr().out
    assert everything(client, run) == (info, params, tags, files, metrics)


def test_two_processes_that_deliver_one_run_at_a_time_store_it_once(runs, client):
    run = make_run(runs / "beside", tags={"team": "nlp"})
    live(run, 1, 60)
    uri = f"sqlite:///{runs}/mlflow.db"
    both = [Replica(run, uri) for _ in range(2)]  # as a mirror and `mat-ds sync`, each with its own connection
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(each.deliver) for each in both]:
            done.result()
    info, _, _, _, metrics = everything(client, run)
    assert info["status"] == "FINISHED" and metrics["train/loss"] == points(run, "step", "loss")
    assert metrics["telemetry/cosine"] == points(run, "telemetry", "cosine")


def test_a_command_that_waits_in_vain_for_another_delivery_says_so(runs, monkeypatch):
    run = make_run(runs / "busy")
    own_id(run)
    monkeypatch.setattr("mat_ds.tracking.mirrored.TURN", 0)
    refused, told = pytest.raises(UserError, match="another process has been delivering"), errors_told("sqlite:///mlflow.db")
    with turn_to_deliver(run), refused, told, turn_to_deliver(run):
        raise AssertionError("two at a time")


def test_a_continued_run_stays_the_same_run_and_repeats_no_step(runs, client):
    run, lock = make_run(runs / "cut"), RunLock()
    lock.acquire(run.path)
    live(run, 1, 5, status=None)
    assert sync(run) == ExitCode.OK and found(client, run).info.status == "RUNNING"
    lock.release()
    assert sync(run) == ExitCode.OK and found(client, run).info.status == "FAILED"

    resume(run, max_steps=8)
    live(run, 4, 8, status="KILLED")  # from a checkpoint after step 3
    assert sync(run) == ExitCode.OK
    there = found(client, run)
    assert there.info.status == "KILLED"
    assert [step for step, _, _ in history(client, there, "train/loss")] == list(range(1, 9))
    assert [step for step, _, _ in history(client, there, "train/samples_per_second")] == list(range(1, 9))
    assert there.data.params["train.max_steps"] == "null" and there.data.params["resume_1.train.max_steps"] == "8"

    live(run, 7, 9, loss=lambda step: 2 / step)  # steps repeated with other numbers are delivered
    assert sync(run) == ExitCode.OK
    there = found(client, run)
    assert there.info.status == "FINISHED" and there.data.tags["mat_ds.starts"] == "2"
    assert [value for step, _, value in history(client, there, "train/loss") if step == 7] == [1 / 7, 2 / 7]
    assert history(client, there, "results/best/score") == [(9, there.info.end_time, 0.5)]  # of the start that finished

    # Another MLflow server to which the run is delivered only now gets the same.
    elsewhere = f"sqlite:///{runs}/elsewhere.db"
    shutil.copy(runs / "mlflow.db", runs / "elsewhere.db")
    other = MlflowClient(elsewhere)
    other.delete_run(there.info.run_id)
    assert sync(run, uri=elsewhere) == ExitCode.OK
    again = found(other, run)
    assert again.info.run_id != there.info.run_id and again.data.params == there.data.params
    assert history(other, again, "train/loss") == history(client, there, "train/loss")


def test_values_and_numbers_beyond_mlflows_limits_are_cut_or_sent_in_batches(runs, client):
    many = {f"option_{i:03}": i for i in range(230)}
    run = make_run(runs / "large", options={"method": {**many, "long": "x" * 7000, "odd (key)": 1}})
    live(run, 1, 700)
    assert sync(run) == ExitCode.OK
    there = found(client, run)
    assert there.data.params["method.long"] == "x" * 6000 and there.data.params["method.odd _key_"] == "1"
    assert {there.data.params[f"method.{key}"] for key in many} == {str(i) for i in range(230)}
    assert len(history(client, there, "train/loss")) == 700 and len(history(client, there, "telemetry/cosine")) == 350


def test_an_unfinished_line_is_delivered_later_and_a_torn_one_left_out(runs, client):
    run = make_run(runs / "torn")
    live(run, 1, 2, status=None)
    with run.events.open("a") as file:
        file.write('{"event": "step", "step": 3, "loss": 0.25, ')
    assert sync(run) == ExitCode.OK and len(history(client, found(client, run), "train/loss")) == 2
    with run.events.open("a") as file:
        file.write('"time": 1800000000.25}\n{"event": "step", "st')
    assert sync(run) == ExitCode.OK
    assert history(client, found(client, run), "train/loss")[-1] == (3, 1800000000250, 0.25)
    live(run, 4, 4)  # completes the line that a crash cut short
    assert sync(run) == ExitCode.OK
    assert [step for step, _, _ in history(client, found(client, run), "train/loss")] == [1, 2, 3, 4]


def test_an_experiment_is_read_back_from_directories_or_from_metrics(runs, client):
    here, gone = make_run(runs / "here", experiment="read"), make_run(runs / "gone", experiment="read")
    for run in (here, gone):
        live(run, 1, 4)
    assert sync(here, gone) == ExitCode.OK
    expected = [r for r in read_events(gone.events) if r["event"] in ("step", "telemetry", "evaluation")]
    shutil.rmtree(gone.path)
    # Both may have begun in the same millisecond, and so may two events.
    read_back = {run.directory: run for run in runs_of(f"sqlite:///{runs}/mlflow.db", "read")}
    first, second = read_back.pop(here.path), read_back.pop(gone.path)
    assert first.records == [] and read_back == {}
    assert second.status == "FINISHED" and second.params["train.epochs"] == "3.0" and second.tags["mat_ds.world_size"] == "2"
    assert second.tags["mat_ds.precision"] == "fp16"
    read = [record for record in second.records if record["event"] in ("step", "telemetry", "evaluation")]
    wanted = [{key: value for key, value in record.items() if value is not None} for record in expected]
    assert sorted(read, key=place) == sorted(wanted, key=place)


def test_a_directory_reused_by_another_run_is_not_read_as_the_first(runs, client):
    run = make_run(runs / "taken", experiment="taken")
    live(run, 1, 2)
    assert sync(run) == ExitCode.OK
    own = own_id(run)
    shutil.rmtree(run.path)
    live(make_run(runs / "taken", experiment="taken"), 1, 4)
    assert sync(run) == ExitCode.OK
    first, second = sorted(runs_of(f"sqlite:///{runs}/mlflow.db", "taken"), key=lambda found: found.tags[RUN_ID] != own)
    assert first.directory is None and max(record["step"] for record in first.records) == 2
    assert second.directory == run.path and second.tags[RUN_ID] == own_id(run) != own


def test_syncing_without_a_run_or_an_address_is_refused_with_a_fix(runs, capsys):
    nowhere = make_run(runs / "nowhere", uri="none")
    live(nowhere, 1, 1)
    assert main(["sync", str(nowhere.path), str(runs / "typo")]) == ExitCode.USER_ERROR
    said = capsys.readouterr().err
    assert "does not exist" in said and "pass --uri" in said and "2 problems" in said
    assert main(["sync"]) == ExitCode.USER_ERROR and "mat-ds sync runs --uri" in capsys.readouterr().err


def test_other_files_that_a_shell_pattern_matches_are_skipped_if_there_are_runs(runs, client, capsys):
    sweep = runs / "sweep"
    run = make_run(sweep / "trial-0000", uri=f"sqlite:///{runs}/mlflow.db")
    live(run, 1, 1)
    log = sweep / "trial-0000.log"
    log.touch()
    assert main(["sync", *(str(path) for path in sorted(sweep.glob("trial-*")))]) == ExitCode.OK
    assert f"{log}: skipped" in capsys.readouterr().out and found(client, run).info.status == "FINISHED"
    assert main(["sync", str(log)]) == ExitCode.USER_ERROR and "has no run directory" in capsys.readouterr().err
    assert main(["sync", str(sweep), str(run.path)]) == ExitCode.OK
    assert capsys.readouterr().out.count("nothing new") == 1
    assert main(["sync", str(sweep), str(runs / "typo")]) == ExitCode.USER_ERROR and "does not exist" in capsys.readouterr().err


def test_runs_of_a_folder_that_are_not_mirrored_are_skipped_in_a_line_and_the_others_delivered(runs, client, capsys):
    folder = runs / "mixed"
    alone, mirrored = make_run(folder / "alone", uri="none"), make_run(folder / "mirrored", uri=f"sqlite:///{runs}/mlflow.db")
    for run in (alone, mirrored):
        live(run, 1, 2)
    assert main(["sync", str(folder)]) == ExitCode.OK
    said = capsys.readouterr().out
    assert said.count("skipped") == 1 and f"{alone.path}: skipped, not mirrored" in said and "--uri delivers it" in said
    assert found(client, mirrored).info.status == "FINISHED"


def test_an_unreachable_server_prints_one_line_and_does_not_affect_other_runs(runs, client, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    dead, run = make_run(runs / "dead", uri="http://127.0.0.1:9"), make_run(runs / "reached")
    for each in (dead, run):
        live(each, 1, 1)
    assert sync(dead, run) == ExitCode.FAILED
    said = capsys.readouterr()
    assert said.err.count("NOT delivered to http://127.0.0.1:9") == 1 and "Traceback" not in said.err
    assert found(client, run).info.status == "FINISHED" and own_id(dead) == read_tracking(dead)["run_id"]


def test_runs_of_earlier_versions_get_defaults_for_new_options(runs, client):
    run = make_run(runs / "old")
    live(run, 1, 1)
    config = yaml.safe_load(run.config.read_text())
    run.config.write_text(yaml.safe_dump({**config, "tracking": {"enabled": False}}))
    assert sync(run) == ExitCode.OK and found(client, run).info.run_name == "old"
