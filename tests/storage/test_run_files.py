"""Files of a run are complete or absent, and a resumed run continues the log at its checkpoint."""

import json
import os

import pytest

from mat_ds.errors import UserError
from mat_ds.reports.shapes import events_of
from mat_ds.runs.steps import evaluation_points
from mat_ds.storage.disk import write_json
from mat_ds.storage.events import EventLog, read_events
from mat_ds.storage.folders import write_folder
from mat_ds.storage.progress import Progress
from mat_ds.tracking.content import event_metrics
from mat_ds.tracking.playback import Playback


def test_a_failed_replacement_of_a_folder_keeps_the_old_one(tmp_path):
    folder = tmp_path / "model"
    write_folder(folder, lambda aside: (aside / "weights").write_text("old"))

    def fail(aside):
        (aside / "weights").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError):
        write_folder(folder, fail)
    assert (folder / "weights").read_text() == "old"
    write_folder(folder, lambda aside: (aside / "weights").write_text("new"))
    assert (folder / "weights").read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_file_is_replaced_whole(tmp_path):
    write_json(tmp_path / "a" / "results.json", {"x": 1})
    write_json(tmp_path / "a" / "results.json", {"x": 2})
    assert json.loads((tmp_path / "a" / "results.json").read_text()) == {"x": 2}
    assert len(list((tmp_path / "a").iterdir())) == 1


def test_a_log_is_strict_json_and_one_of_an_earlier_version_is_read(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path, 0)
    log.log({"event": "telemetry", "step": 1, "R": 0.5, "R_ratio": float("inf"), "system": {"load": [float("nan"), 2.0]}})
    log.close()
    with path.open("a") as file:
        file.write('{"event": "telemetry", "step": 2, "R": 0.5, "R_ratio": Infinity, "time": 1e9}\n')
    written, *_ = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()[1:2]]
    assert written["R"] == 0.5 and written["R_ratio"] is None and written["system"] == {"load": [None, 2.0]}
    assert [record["step"] for record in read_events(path)] == [0, 1, 2]
    delivered = [event_metrics(record) for _, record in Playback(path).read() if record["event"] == "telemetry"]
    assert delivered == [{"telemetry/R": 0.5}] * 2
    assert [record.keys() & {"R", "R_ratio"} for record in events_of(path)[1:]] == [{"R"}] * 2


def test_a_resumed_log_reads_like_one_uninterrupted_run_and_loses_no_line(tmp_path):
    path = tmp_path / "events.jsonl"
    assert read_events(path) == []
    first = EventLog(path, 0)
    for step in range(1, 6):
        first.log({"event": "step", "step": step, "life": 1})
    first.log({"event": "evaluation", "step": 5})
    first.close()
    with path.open("a") as file:
        file.write('{"step": 6, "loss"')  # cut short by a crash
    before = path.read_bytes()
    resumed = EventLog(path, 3)
    resumed.log({"event": "step", "step": 4, "life": 2})
    resumed.close()
    assert path.read_bytes().startswith(before)
    shown = [(record["event"], record["step"], record.get("life")) for record in read_events(path)]
    assert shown == [("start", 0, None), *(("step", i, 1) for i in (1, 2, 3)), ("start", 3, None), ("step", 4, 2)]
    assert all(record["time"] > 1e9 for record in read_events(path))


def test_a_log_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "events.jsonl")
    with pytest.raises(UserError, match="not a regular file"):
        read_events(tmp_path / "events.jsonl")
    with pytest.raises(OSError, match="not a regular file"):
        list(Playback(tmp_path / "events.jsonl").read())


def test_evaluations_are_spread_evenly_and_include_the_last_step():
    assert evaluation_points(2, 10, 30) == {5, 10, 15, 20, 25, 30}
    assert evaluation_points(1, 10, 25) == {10, 20, 25}
    assert evaluation_points(0, 10, 25) == {25}
    assert evaluation_points(3, 2, 4) == {1, 2, 3, 4}
    assert evaluation_points(1, 10, 3) == {3}
    assert evaluation_points(2, 10, 25, every=4) == {8, 12, 16, 20, 25}


def test_results_report_last_best_and_the_median_of_the_last_half():
    scores = [0.1, 0.9, 0.3, 0.5, 0.4]
    progress = Progress(
        step=10,
        evaluations=[{"step": 2 * (i + 1), "score": s} for i, s in enumerate(scores)],
        seconds=2.0,
        samples=100,
        tokens=1000,
    )
    results = progress.results()
    assert results["last"] == {"step": 10, "score": 0.4} and results["best"] == {"step": 4, "score": 0.9}
    assert results["median_last_half"] == 0.4  # the median of steps 6, 8 and 10
    assert results["samples_per_second"] == 50 and results["tokens_per_second"] == 500
