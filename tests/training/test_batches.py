"""The examples of an outer step are collated once, although checks, telemetry and saving use them too."""

from types import SimpleNamespace

import pytest
import torch

from mat_ds.methods import METHODS
from mat_ds.runs.options import RunConfig
from mat_ds.storage.progress import Progress
from mat_ds.tasks.example import Example
from mat_ds.tasks.loader import Collator, TrainLoader
from mat_ds.tasks.options import DataConfig
from mat_ds.terminal.display import Display
from mat_ds.training.adversary import objections
from mat_ds.training.loop import Loop
from tests.support.kinds import CLASSIFICATION
from tests.support.plain_engine import PlainEngine
from tests.support.small_engine import one_rank
from tests.support.tiny import tiny_roberta

STEPS, BATCH, MICRO = 3, 8, 2


class Tokenizer:
    """A tokenizer that counts the batches that it pads."""

    padded = 0

    def pad(self, stored, return_tensors):
        self.padded += 1
        return {name: torch.tensor([each[name] for each in stored]) for name in stored[0]}


class Engine(PlainEngine):
    """A `PlainEngine` with the other methods that the loop calls."""

    device, dtype, gradient_norm, skipped_since_begin = torch.device("cpu"), torch.float32, None, 0
    moved, parts, spread = (0.0, 0.0), (1.0, 0.0), {}

    def begin(self, outer_step, lr, done=0.0, watch=False, meets=True, keeps=False):
        self.outer_step = outer_step

    def end(self, measured):
        return {name: float(value) for name, value in measured.items()}

    def check(self, batch):
        self.probe(batch, None)

    def realised(self, batch, delta):
        with self.perturbation.recorded() as seen, torch.no_grad():
            self.probe(batch, None, delta)
        return seen


@pytest.fixture(scope="module", autouse=True)
def alone():
    with one_rank():
        yield


@pytest.mark.parametrize("name", ["vanilla", "rdrop", "freelb", "smart", "mat"])
def test_the_examples_of_an_outer_step_are_collated_once(name):
    """Here every step has telemetry, an evaluation and a checkpoint."""
    tokens = {"input_ids": [0, *range(3, 9), 2], "attention_mask": [1] * 8}
    examples = [Example(("a",), i % 3, tokens) for i in range(BATCH * STEPS)]
    tokenizer, shown = Tokenizer(), Display(False)
    collate = Collator(tokenizer, 8, CLASSIFICATION)
    loader = TrainLoader(examples, collate, BATCH, MICRO, DataConfig(), 0, 0, 1, torch.device("cpu"))
    method = METHODS[name](METHODS[name].Settings(), CLASSIFICATION)
    engine = Engine(tiny_roberta(), method.chain.samples)
    objections(engine, method, loader.micro_batches(0)[0])
    train = {"telemetry_every": 1, "save_every": 1, "eval_per_epoch": STEPS, "batch_size": BATCH, "epochs": 1}
    run = RunConfig.model_validate({"train": train, "method": {"name": name}})
    records = []
    tracker = SimpleNamespace(log=lambda record: records.append(record["event"]))
    stopping = SimpleNamespace(told_to_stop_or_save=lambda: (False, False), saved=lambda: None)
    saved = SimpleNamespace(seconds=0.0, bytes=0)
    scored = {"dev": {"accuracy": 0.5}}, 0.5
    snapshots = SimpleNamespace(evaluate=lambda weights: scored, export=lambda: None, save=lambda progress: saved)
    Loop(run, engine, method, loader, snapshots, tracker, shown, stopping).train(Progress())
    assert [records.count(kind) for kind in ("step", "telemetry", "evaluation", "checkpoint")] == [STEPS] * 4
    assert tokenizer.padded == STEPS * BATCH // MICRO
