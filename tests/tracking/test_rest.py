"""What happens once a run has ended and its mirror still delivers: who waits for whom, and when it gives up."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from mat_ds.errors import Interrupted
from mat_ds.tracking import mirror as module
from mat_ds.tracking import replica
from mat_ds.tracking.tracker import Tracker
from tests.support.tracked import live, make_run


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run that has ended, and a mirror that need not wait."""
    monkeypatch.setattr(module, "LOOK", 0.01)
    monkeypatch.setattr(module, "_ended", lambda seconds, parent: True)
    made = make_run(tmp_path / "runs" / "one", uri="http://127.0.0.1:9")
    live(made, 1, 2)
    return made


def server(monkeypatch, answers):
    """An MLflow that answers each delivery as listed: by a status of the run, or an error."""
    given = iter(answers)

    class Replica:
        status = "RUNNING"

        def __init__(self, run, uri):
            pass

        def deliver(self):
            answer = next(given)
            if isinstance(answer, Exception):
                raise answer
            self.status = answer

    monkeypatch.setattr(replica, "Replica", Replica)
    return given


def test_a_broken_server_is_given_up_and_the_log_says_what_delivers_the_rest(run, monkeypatch, capsys):
    answers = server(monkeypatch, [OSError("down")] * 5)
    assert not module.mirror(run, "http://127.0.0.1:9", 0) and len(list(answers)) == 5 - module.FAILURES
    first, last = capsys.readouterr().out.splitlines()
    assert first.endswith("not delivered, tried again later: OSError: down")
    assert last.endswith(f"given up: `mat-ds sync {run.path} --uri http://127.0.0.1:9` delivers the rest")


def test_failures_between_deliveries_that_succeed_are_no_reason_to_give_up(run, monkeypatch, capsys):
    down = OSError("down")  # RUNNING: the lock of a killed rank is still held
    answers = server(monkeypatch, [down, down, "RUNNING", down, down, "RUNNING", down, "FINISHED"])
    assert module.mirror(run, "http://127.0.0.1:9", 0) and not list(answers)
    assert "given up" not in capsys.readouterr().out


def test_delivery_is_given_up_when_its_time_is_over(run, monkeypatch, capsys):
    monkeypatch.setattr(module, "REST", 0.05)
    monkeypatch.setattr(module, "FAILURES", 10**9)
    server(monkeypatch, (OSError("down") for _ in iter(int, 1)))
    assert not module.mirror(run, "http://127.0.0.1:9", 0)
    assert "given up" in capsys.readouterr().out


def test_a_run_that_was_deleted_is_left_alone(run, tmp_path, capsys):
    shutil.rmtree(tmp_path / "runs")
    assert not module.mirror(run, f"sqlite:///{tmp_path}/runs/mlflow.db", 0)
    assert not (tmp_path / "runs").exists() and not capsys.readouterr().out


@pytest.fixture
def settled(processes, tmp_path, monkeypatch, capsys):
    """Ends a run whose mirror is a Python program: (its process, seconds, what is said to the user, what is on stderr)."""
    monkeypatch.setattr("mat_ds.tracking.tracker.MOMENT", 0.1)

    def end(program, lasts, error=None, **patience):
        run, tracker, said = make_run(tmp_path / f"run {len(processes)}"), Tracker(keeps=True), []
        monkeypatch.setattr("mat_ds.tracking.tracker.outlives_this_process", lambda: lasts)
        monkeypatch.setattr("mat_ds.tracking.tracker.start_mirror", lambda run, uri: processes[-1])
        processes.append(subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, cwd=run.path))
        with suppress(Interrupted), tracker:
            tracker.begin(run, 0, f"sqlite:///{tmp_path}/mlflow.db")
            if error:
                raise error
        began = time.monotonic()
        tracker.settle(said.append, **patience)
        return processes[-1], time.monotonic() - began, "\n".join(said), capsys.readouterr().err

    return end


NEVER = "import time; time.sleep(600)"


def test_a_mirror_that_still_delivers_at_the_end_goes_on_in_the_background_and_the_prompt_is_back(settled):
    mirror, seconds, said, errors = settled(NEVER, lasts=True)
    assert seconds < 5 and mirror.poll() is None and not errors
    assert said.startswith("MLflow gets the rest of this run in the background") and "`mat-ds sync '" in said


def test_where_the_mirror_would_be_killed_the_run_waits_for_it_and_says_so(settled):
    mirror, seconds, said, errors = settled("import time; time.sleep(0.7)", lasts=False)
    assert mirror.returncode == 0 and seconds > 0.3 and not errors
    assert said.startswith("delivering to MLflow; Ctrl-C leaves it to `mat-ds sync ") and said.count("\n") == 0


def test_waiting_for_the_mirror_ends_when_told_and_soon_if_the_run_goes_on_later(settled, monkeypatch):
    monkeypatch.setattr("mat_ds.tracking.tracker.SHORT_LIMIT", 0.2)
    for how in ({"told_to_leave": lambda: True}, {"error": Interrupted("SIGTERM")}):
        mirror, seconds, _, errors = settled(NEVER, lasts=False, **how)
        assert seconds < 5 and mirror.poll() is None
        assert errors.startswith("tracking: not everything of this run is in MLflow yet: `mat-ds sync ")


def test_a_failed_delivery_names_the_log_only_if_it_says_why(settled):
    silent, wordy = "raise SystemExit(1)", "open('tracking.log', 'w').write('why'); raise SystemExit(1)"
    for program, named in ((silent, False), (wordy, True)):
        *_, errors = settled(f"import time; time.sleep(0.3); {program}", lasts=False)
        assert errors.count("tracking: not everything of this run is in MLflow yet") == 1
        assert ("tracking.log" in errors) is named


@pytest.mark.parametrize(
    "terminal, slurm, session, lasts",
    [(True, None, 7, True), (False, None, 7, False), (True, "12", 7, False), (True, None, 1, False)],
)
def test_the_background_is_trusted_only_at_a_terminal_outside_of_jobs_and_of_a_containers_first_session(
    terminal, slurm, session, lasts, monkeypatch
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    if slurm:
        monkeypatch.setenv("SLURM_JOB_ID", slurm)
    monkeypatch.setattr(os, "getsid", lambda pid: session if pid == 0 else 1)
    assert module.outlives_this_process() is lasts
