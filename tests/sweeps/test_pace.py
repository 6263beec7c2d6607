"""How long the trainings of a sweep will still take, from those that have ended, whoever trained them."""

import pytest

from mat_ds.runs.options import RunConfig, TrainConfig
from mat_ds.sweeps.pace import Pace
from mat_ds.terminal.display import Display


class Moved:
    """A bar that remembers where it was moved to."""

    def __init__(self):
        self.places = []

    def rename(self, name):
        self.name = name

    def move(self, place):
        self.places.append(place)


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("mat_ds.sweeps.pace.time.monotonic", lambda: now[0])
    return now


def paced(ended, **train):
    pace = Pace(Display(False), "trial", 20, RunConfig(train=TrainConfig(**train)), lambda: ended[0])
    pace._bar = Moved()
    return pace


@pytest.mark.parametrize("seconds, left", [(40, "11.3 min"), (30, "8.5 min"), (3, "51.0 s"), (3600, "17.0 h")])
def test_the_time_left_is_that_of_the_rest_at_the_pace_so_far(seconds, left, clock):
    """Two trainings had ended before this worker began, and do not count for its pace."""
    ended = [2]
    pace = paced(ended)
    assert pace.begins(3) == "trial 3 of 20"
    ended[0], clock[0] = 3, 1000.0 + seconds
    assert pace.begins(4) == f"trial 4 of 20, {left} left" and pace._bar.name == "trial 4 of 20"
    assert pace._bar.places == [2, 3]
    ended[0] = 20  # and one is trained again
    assert pace.begins(3) == "trial 3 of 20"


@pytest.mark.parametrize(
    "train, record", [({"epochs": 4.0}, {"step": 9, "epoch": 1.0}), ({"max_steps": 36}, {"step": 9, "epoch": 0.3})]
)
def test_a_training_moves_the_bar_by_its_share_that_is_done(train, record):
    pace = paced([5], **train)
    pace.follow(None)
    pace.follow(record)
    pace.follow({"step": 1000, "epoch": 1000.0})
    assert pace._bar.places == [5.25, 6]
