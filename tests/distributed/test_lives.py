"""A run with signals, damage and changed options ends bit for bit like one that was left alone."""

import pytest

from tests.support.expected import named
from tests.support.launch import run_ranks

pytestmark = pytest.mark.dist


LOCAL = ("local", "evaluations wait", "ends in a meeting", "members", "a member a chain", "apart", "mixture")
LOCAL += ("killed, int8", "members, int8", "killed, bf16", "members, bf16")


def failures(report):
    return [name for name, right in report.items() if not right]


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_signals_in_every_phase_save_at_once_or_after_the_loop_and_the_run_continues(ranks, tmp_path):
    local = ["local", "rounded"] if ranks > 1 else []
    report = run_ranks("tests.workers.lives", ranks, str(tmp_path), "interrupted", "ended", *local)
    phases = ("perturbation's loop", "parameters' loop", "evaluation", "saving")
    assert report.keys() == named("{}, {}", phases, ("SIGTERM", "SIGUSR1"), of=2) | {"twice", "after the last step"} | {
        "ended early",
        "ended late",
        *(LOCAL if local else ()),
    }
    assert failures(report) == []


def test_damaged_checkpoints_are_skipped_changes_that_matter_refused_and_a_second_job_kept_out(tmp_path):
    report = run_ranks("tests.workers.lives", 1, str(tmp_path), "damaged", "changed")
    damages = {"truncated", "flipped", "missing", "no manifest", "no latest", "latest nowhere", "latest torn", "all damaged"}
    assert report.keys() == damages | {"changed", "lock of the living", "lock of the dead"}
    assert failures(report) == []
