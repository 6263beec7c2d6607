"""If the disk has no room for the model, training stops with a message, or continues and knows what `model/` holds."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from mat_ds.errors import SaveError
from mat_ds.runs.options import RunConfig
from mat_ds.storage.progress import Progress
from mat_ds.training.loop import Loop
from tests.support.small_engine import one_rank


class Told:
    def __init__(self):
        self.warnings = []

    def say(self, *_):
        pass

    @contextmanager
    def bar(self, *_):
        yield SimpleNamespace(update=lambda: None, tell=lambda *facts: None)

    def warn(self, line):
        self.warnings.append(line)


class Still:
    """Engine, method, loader and stop requests in one, for steps that do nothing and are never stopped."""

    device, skipped_since_begin, gradient_norm, steps_per_epoch = torch.device("cpu"), 0, None, 1

    def begin(self, *_):
        pass

    check = saved = begin

    def step(self, _engine, _batches):
        return {"loss": torch.zeros(())}

    def end(self, measured):
        return {name: float(value) for name, value in measured.items()}

    def micro_batches(self, _step):
        return [SimpleNamespace(inputs={"attention_mask": torch.ones(1, 1)})]

    def told_to_stop_or_save(self):
        return False, False


@pytest.fixture(scope="module", autouse=True)
def alone():
    with one_rank():
        yield


def loop(scores, refused, choice="continue", export="best", steps=None, progress=None, members=None, **more):
    """A loop with one step and one evaluation per score, whose exports fail after given steps.

    `members`: what keeps snapshots.
    """
    train = {"on_save_failure": choice, "export": export, "max_steps": steps or len(scores), "telemetry_every": 0, **more}
    run = RunConfig.model_validate({"train": train})
    made, told, still, scores = [], Told(), Still(), iter(scores)
    progress = progress or Progress()

    def write():
        if progress.step in refused:
            raise SaveError(f"model could not be written after step {progress.step}")
        made.append(progress.step)

    def evaluate(_):
        score = next(scores)
        return {"dev": {"accuracy": score}}, score

    tracker = SimpleNamespace(log=lambda record: None)
    save = lambda progress: SimpleNamespace(seconds=0.0, bytes=0)  # noqa: E731
    snapshots = SimpleNamespace(evaluate=evaluate, export=write, save=save, **members or {})
    train = Loop(run, still, still, still, snapshots, tracker, told, still).train
    return lambda: train(progress), made, told


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
def test_the_best_model_that_could_be_written_is_exported(scores, refused, made, exported):
    train, written, told = loop(scores, refused)
    progress = train()
    assert written == made and progress.exported == exported
    assert len(told.warnings) == len(refused)
    assert all("could not be written" in line and "goes on without" in line for line in told.warnings)
    held = progress.in_model
    assert (held and held["step"]) == exported


def test_with_on_save_failure_stop_training_stops():
    progress = Progress()
    train, written, _ = loop((0.1, 0.2), (1,), choice="stop", progress=progress)
    with pytest.raises(SaveError, match="after step 1"):
        train()
    assert written == [] and progress.exported is None


def test_the_last_model_is_exported_again_if_there_was_no_room():
    train, written, _ = loop((0.1, 0.3, 0.2), (), export="last")
    progress = train()
    assert written == [3] and progress.exported == 3
    again, written, _ = loop((), (), export="last", steps=3, progress=progress)
    assert again().exported == 3 and written == []
    train, written, told = loop((0.1, 0.3, 0.2), (3,), export="last")
    progress = train()
    assert written == [] and progress.exported is None and len(told.warnings) == 1
    again, written, _ = loop((), (), export="last", steps=3, progress=progress)
    assert again().exported == 3 and written == [3]


def test_an_earlier_versions_checkpoint_counts_as_holding_the_best_model():
    evaluations = [{"step": 2, "score": 0.4}, {"step": 4, "score": 0.7}, {"step": 6, "score": 0.7}]
    state = {"step": 6, "evaluations": evaluations, "another version": 1}
    assert Progress.restored(state).exported == 4
    assert Progress.restored({**state, "exported": None}).exported is None
    assert Progress.restored({"step": 0}).exported is None


@pytest.mark.parametrize("export, made", [("best", [1, 2]), ("last", [4])])
def test_training_ends_when_patience_does_and_exports_what_was_asked_for(export, made):
    train, exported, _ = loop((0.1, 0.3, 0.2, 0.3), (), export=export, steps=9, early_stopping={"patience": 2})
    progress = train()
    assert (progress.step, exported, len(progress.evaluations)) == (4, made, 4)
    # Continued as it is, it has ended; with more patience it goes on.
    again, exported, _ = loop((), (), export=export, steps=9, progress=progress, early_stopping={"patience": 2})
    assert again().step == 4 and exported == []
    more, *_ = loop((0.1, 0.1, 0.1), (), export=export, steps=9, progress=progress, early_stopping={"patience": 5})
    assert more().step == 7
