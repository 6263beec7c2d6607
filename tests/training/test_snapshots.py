"""Scores, exported model and checkpoints are of the weights that the options ask for, raw or averaged."""

from types import SimpleNamespace

import pytest

from mat_ds.runs.options import RunConfig
from mat_ds.storage.checkpoints import checkpoints_of
from mat_ds.storage.lock import RunLock
from mat_ds.storage.progress import Progress
from mat_ds.storage.rundir import RunDirectory
from mat_ds.terminal.display import Display
from mat_ds.training.setup import Data
from mat_ds.training.snapshots import Snapshots
from tests.support.small_engine import SmallEngine, Tokenizer, one_rank


@pytest.fixture(autouse=True)
def alone():
    with one_rank():
        yield


class Evaluator:
    """An evaluator that scores an engine by its value."""

    def scores(self, forward, splits):
        return {split: {"accuracy": forward() + len(examples)} for split, examples in splits.items()}, forward()


def snapshots(folder, weights):
    """Snapshots of an engine whose parameters are 1 and whose average is 5."""
    engine = SmallEngine(1.0)
    for master in engine.shards.slices:
        engine.sampler.kept(master)["average"].fill_(5.0)
    engine.predict = lambda: float(engine.ds.module.bias[0].detach())
    run = RunConfig.model_validate({"model": {"average": "ema"}, "train": {"export_weights": weights}})
    data = Data(SimpleNamespace(dev={"validation": [0, 0]}), Tokenizer(), 8)
    return Snapshots(run, engine, data, Evaluator(), RunDirectory(folder), None, RunLock(), Display(False))


@pytest.mark.parametrize("weights, value", [("raw", 1), ("average", 5)])
def test_the_chosen_weights_are_scored_and_exported_and_training_keeps_the_raw_ones(tmp_path, weights, value):
    found = snapshots(tmp_path, weights)
    assert found.evaluate(weights) == ({"validation": {"accuracy": value + 2}}, value)
    found.export()
    assert set((tmp_path / "model" / "model.safetensors").read_bytes()) == {value}
    assert found.engine.predict() == 1.0


def test_restoring_brings_back_weights_progress_and_exported_model(tmp_path):
    found = snapshots(tmp_path, "average")
    found.export()
    score = {"step": 3, "score": 0.5}
    progress = Progress(step=3, samples=24, evaluations=[score], exported=3)
    assert found.save(progress).bytes > 0
    found.engine.fill(2.0)
    (tmp_path / "model" / "model.safetensors").unlink()

    restored, damaged = found.restore(checkpoints_of(tmp_path))
    assert restored == progress and restored.best == score and damaged == []
    assert found.engine.predict() == 1.0 and found.evaluate("average")[1] == 5.0
    assert set((tmp_path / "model" / "model.safetensors").read_bytes()) == {5}
