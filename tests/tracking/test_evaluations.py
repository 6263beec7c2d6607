"""What `mat-ds evaluate` left in a run reaches its MLflow, once."""

import json
import os
import shutil

from mat_ds.cli import main
from mat_ds.errors import ExitCode
from mat_ds.storage.events import read_events
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tracking.content import RUN_ID
from mat_ds.tracking.history import runs_of
from mat_ds.tracking.mirrored import own_id
from mat_ds.tracking.replica import Replica
from tests.support.tracked import everything, found, live, make_run


def sync(run):
    return main(["sync", str(run.path)])


def evaluate(run, folder, flip_rate, **more):
    """A folder as `mat-ds evaluate` writes it, with a report of one attack on texts and one on embeddings."""
    attacked = {"clean": 0.75, "flip_rate": flip_rate, "shown": [{"texts": ["a"], "changed": ["b"]}], "by_added": [0.1, 0.2]}
    report = {
        "task": "demo",
        "attack": {"norm": "linf", "radii": [0.001]},
        "splits": {
            "validation": {
                "clean": {"accuracy": 0.75},
                "attack": [{"radius": 0.0, "accuracy": 0.75}, {"radius": 0.001, "accuracy": 0.5, "broken": 5}],
                "noise": {"word_drop": [{"rate": 0.1, "accuracy": 0.625}]},
                "calibration": {"before": {"ece": 0.125}, "reliability": [{"share": 0.5}]},
                "groups": {"a/../b": {"accuracy": 1.0}, "..": {"accuracy": 0.0}},
                "text_attacks": {"characters": attacked},
            },
        },
        "invariance": {"tests": [{"name": "who says so?", "cases": 4, "failure_rate": 0.25, "shown": []}]},
        "gate": {"met": True, "required": [{"condition": "clean >= 0.5", "found": {"validation": 0.75}, "met": True}]},
        **more,
    }
    (run.path / folder).mkdir()
    (run.path / folder / "robustness.json").write_text(json.dumps(report))
    (run.path / folder / "validation.characters.jsonl").write_text('{"texts": ["a"], "changed": ["b"]}\n')


def test_evaluations_are_delivered_once_with_their_files_also_after_the_run_has_ended(runs, client, capsys):
    run = make_run(runs / "evaluated")
    live(run, 1, 2)
    mirror = Replica(run, f"sqlite:///{runs}/mlflow.db")  # as a mirror that looks again and again
    mirror.deliver()
    before = everything(client, run)[-1]
    evaluate(run, "evaluation", 0.25)
    mirror.deliver()
    evaluate(run, "evaluation-2", 0.5)
    assert sync(run) == ExitCode.OK and "0 events, 2 files -> run" in capsys.readouterr().out
    whole = everything(client, run)
    new = {name: points for name, points in whole[-1].items() if name not in before}
    began = round(1000 * read_events(run.events)[0]["time"])
    expected = {
        "validation/clean/accuracy": 0.75, "validation/attack/linf/0/accuracy": 0.75,
        "validation/attack/linf/0.001/accuracy": 0.5, "validation/attack/linf/0.001/broken": 5,
        "validation/noise/word_drop/0.1/accuracy": 0.625, "validation/calibration/before/ece": 0.125,
        "validation/groups/a_.._b/accuracy": 1.0, "validation/groups/_/accuracy": 0.0,
        "validation/text_attacks/characters/clean": 0.75, "invariance/who says so_/cases": 4,
        "invariance/who says so_/failure_rate": 0.25, "gate/met": 1,
    }  # fmt: skip
    assert {name: points for name, points in new.items() if "flip_rate" not in name} == {
        f"robustness/{name}": [(step, began, value) for step in (1, 2)] for name, value in expected.items()
    }
    assert new["robustness/validation/text_attacks/characters/flip_rate"] == [(1, began, 0.25), (2, began, 0.5)]
    run_id = whole[0]["run_id"]
    for folder in ("evaluation", "evaluation-2"):
        uploaded = {file.path for file in client.list_artifacts(run_id, folder)}
        assert uploaded == {f"{folder}/robustness.json", f"{folder}/validation.characters.jsonl"}

    assert sync(run) == ExitCode.OK and "nothing new" in capsys.readouterr().out
    mirror.deliver()
    # A delivery whose tag was lost is repeated; a file that was copied has another time.
    client.delete_tag(run_id, "mat_ds.evaluation.2")
    os.utime(run.path / "evaluation" / "robustness.json", (0, 0))
    assert sync(run) == ExitCode.OK and everything(client, run) == whole
    assert all(record["event"] in ("step", "telemetry", "evaluation") for record in read_back(runs, run))
    assert [r["step"] for r in read_back(runs, run) if r["event"] == "evaluation"] == [2], "none of them is one of training"

    # A folder that was deleted and made anew is a further evaluation, and the one that MLflow shows.
    shutil.rmtree(run.path / "evaluation")
    evaluate(run, "evaluation", 0.125)
    assert sync(run) == ExitCode.OK
    assert found(client, run).data.metrics["robustness/validation/text_attacks/characters/flip_rate"] == 0.125


def read_back(runs, run):
    """The records of a run as MLflow alone has them."""
    kept = run.path.rename(run.path.with_name("kept"))
    try:
        return next(
            one.records
            for one in runs_of(f"sqlite:///{runs}/mlflow.db", "mat_ds")
            if one.tags[RUN_ID] == own_id(RunDirectory(kept))
        )
    finally:
        kept.rename(run.path)


def test_of_odd_reports_what_can_be_read_is_delivered_and_the_rest_is_told_once(runs, client, capsys, tmp_path):
    run = make_run(runs / "odd")
    live(run, 1, 2)
    evaluate(run, "evaluation", 0.25, splits=[1], attack=None, invariance={"tests": {"a": {"cases": 3}}}, gate=[])
    evaluate(run, "evaluation-2", 0.25)
    (run.path / "evaluation-2" / "robustness.json").write_text("[")
    (tmp_path / "secret.json").write_text('{"splits": {"validation": {"pin": 1234}}}')
    evaluate(run, "evaluation-3", 0.25)
    (run.path / "evaluation-3" / "robustness.json").unlink()
    (run.path / "evaluation-3" / "robustness.json").symlink_to(tmp_path / "secret.json")
    assert sync(run) == ExitCode.OK
    said = "".join(capsys.readouterr())
    assert (
        "no numbers of evaluation-2: cannot be read" in said and "not uploaded: evaluation-3/robustness.json is a link" in said
    )
    metrics = everything(client, run)[-1]
    assert {name for name in metrics if name.startswith("robustness/")} == {"robustness/invariance/a/cases"}
    files = {file.path for file in client.list_artifacts(found(client, run).info.run_id, "evaluation-3")}
    assert files == {"evaluation-3/validation.characters.jsonl"}
    assert sync(run) == ExitCode.OK and "nothing new" in "".join(capsys.readouterr())
