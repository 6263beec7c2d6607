"""Where the disk has no room for the model, training stops with that message, or goes on and knows what `model/` holds."""

from types import SimpleNamespace

import pytest

from mat_ds.errors import SaveError
from mat_ds.runs.options import RunConfig
from mat_ds.storage.progress import Progress
from mat_ds.training.loop import Loop


class Told:
    def __init__(self):
        self.warnings = []

    def say(self, *_):
        pass

    def warn(self, line):
        self.warnings.append(line)


def loop(scores, refused, choice="continue", export="best"):
    """A loop whose evaluations score so, one a step, and whose exports fail after some steps."""
    run = RunConfig.model_validate({"train": {"on_save_failure": choice, "export": export}})
    made, told = [], Told()
    progress, scores = Progress(), iter(scores)

    def write():
        if progress.step in refused:
            raise SaveError(f"model could not be written after step {progress.step}")
        made.append(progress.step)

    def evaluate(_):
        score = next(scores)
        return {"dev": {"accuracy": score}}, score

    engine = SimpleNamespace(device=None)
    tracker = SimpleNamespace(log=lambda record: None)
    found = Loop(run, engine, None, None, None, tracker, told, progress, None, evaluate, write, None)
    found._log_resources = lambda: None
    return found, made, told


def live(found, steps, total):
    for step in range(1, steps + 1):
        found.progress.step = step
        found._evaluate(is_last=step == total)


@pytest.mark.parametrize(
    "scores, refused, made, exported",
    [
        ((0.1, 0.3, 0.2, 0.3), (), [1, 2], 2),
        ((0.1, 0.3, 0.2, 0.3), (2,), [1, 3, 4], 4),
        ((0.1, 0.3, 0.1, 0.05), (2,), [1], 1),
        ((0.3, 0.2, 0.1, 0.4), (1, 2, 3), [4], 4),
        ((0.3, 0.2, 0.1, 0.4), (1, 2, 3, 4), [], None),
    ],
)
def test_what_is_exported_is_the_best_that_could_be(scores, refused, made, exported):
    found, written, told = loop(scores, refused)
    live(found, 4, 4)
    assert written == made and found.progress.exported == exported
    assert len(told.warnings) == len(refused)
    assert all("could not be written" in line and "goes on without" in line for line in told.warnings)
    held = found.progress.in_model
    assert (held and held["step"]) == exported


def test_stop_stops():
    found, written, _ = loop((0.1, 0.2), (1,), choice="stop")
    with pytest.raises(SaveError, match="after step 1"):
        live(found, 1, 2)
    assert written == [] and found.progress.exported is None


def test_the_last_is_exported_once_and_again_where_there_was_no_room():
    found, written, _ = loop((0.1, 0.3, 0.2), (), export="last")
    live(found, 3, 3)
    assert written == [3] and found.progress.exported == 3
    found._export_if_wanted(is_last=True)
    assert written == [3]
    found, written, told = loop((0.1, 0.3, 0.2), (3,), export="last")
    live(found, 3, 3)
    assert written == [] and len(told.warnings) == 1
    found.export = lambda: written.append("again")
    found._export_if_wanted(is_last=True)
    assert written == ["again"] and found.progress.exported == 3


def test_a_checkpoint_of_before_it_was_noted_holds_its_best():
    evaluations = [{"step": 2, "score": 0.4}, {"step": 4, "score": 0.7}, {"step": 6, "score": 0.7}]
    state = {"step": 6, "evaluations": evaluations, "another version": 1}
    assert Progress.restored(state).exported == 4
    assert Progress.restored({**state, "exported": None}).exported is None
    assert Progress.restored({"step": 0}).exported is None
