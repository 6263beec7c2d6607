"""A run without a given micro-batch gets the largest that fits its device, as estimated by `mat-ds plan`."""

import pytest
import torch
from transformers import AutoConfig

from mat_ds.commands import plan
from mat_ds.errors import UserError
from mat_ds.planning import choice
from mat_ds.ranks.world import World
from mat_ds.runs.ds_config import complete, read_ds_config
from mat_ds.runs.load import load_run_config
from mat_ds.tasks.example import Example
from mat_ds.tasks.examples import TaskData
from mat_ds.tasks.registry import TASKS
from tests.support.launch import ROOT

ZERO2 = ROOT / "ds_configs" / "zero2.json"
LENGTH = 64
SMALL = dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=512, vocab_size=1000,
             max_position_embeddings=130, type_vocab_size=1, pad_token_id=1)  # fmt: skip


class Tokenizer:
    """A tokenizer of the model below, for examples that are already tokenised."""

    model_max_length, pad_token_id, model_input_names = 128, 1, ["input_ids", "attention_mask"]

    def pad(self, stored, return_tensors):
        return {name: torch.tensor([each[name] for each in stored]) for name in stored[0]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    AutoConfig.for_model("roberta", **SMALL).save_pretrained(path)
    return path


def chosen(monkeypatch, memory, *options, ranks=1):
    """The micro-batch chosen by a rank whose GPU has this memory; None: it has no GPU."""
    monkeypatch.setattr(choice, "card_memory", lambda index: memory)
    run = load_run_config(None, ["task=cola", *options])
    completed = complete(read_ds_config(ZERO2), run, World(size=ranks))
    tokens = {"input_ids": [0, *range(4, LENGTH + 2), 2], "attention_mask": [1] * LENGTH}
    data = TaskData(TASKS["cola"], [Example(("a",), 0, tokens)], {}, {}, {})
    return choice.choose_micro_batch(run, completed, data, Tokenizer(), 128, World(size=ranks))


def test_on_a_cpu_it_is_the_largest_divisor_up_to_32(monkeypatch):
    found = {
        (batch, ranks): chosen(monkeypatch, None, f"train.batch_size={batch}", ranks=ranks)
        for batch, ranks in ((64, 2), (64, 1), (96, 2), (28, 2), (74, 2), (4, 4))
    }
    assert found == {(64, 2): 32, (64, 1): 32, (96, 2): 24, (28, 2): 14, (74, 2): 1, (4, 4): 1}


def planned(monkeypatch, memory, *options):
    """The estimate of `mat-ds plan` for inputs of the same length."""
    monkeypatch.setattr("mat_ds.planning.estimate.alternatives", lambda *_: [])
    given = ["--ds_config", str(ZERO2), "--gpus", "1", "--gpu_memory", f"{memory // 2**20}MiB", "task=cola"]
    return plan.find(plan.parse([*given, f"data.max_length={LENGTH}", *options])).plan


def test_on_a_gpu_it_is_the_largest_that_fits_it_up_to_64(monkeypatch, folder):
    options = (f"model.name={folder}", "train.batch_size=192", "method.name=vanilla")
    memory = 1380 * 2**20
    size = chosen(monkeypatch, memory, *options)
    assert size in (2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
    larger = next(more for more in range(size + 1, 65) if 192 % more == 0)
    assert planned(monkeypatch, memory, *options, f"train.micro_batch_size={size}").fits
    assert not planned(monkeypatch, memory, *options, f"train.micro_batch_size={larger}").fits
    itself = planned(monkeypatch, memory, *options)
    assert itself.fits and itself.run.train.micro_batch == size
    assert chosen(monkeypatch, 80 * 2**30, *options) == 64
    assert chosen(monkeypatch, 80 * 2**30, *options, ranks=4) == 48
    assert chosen(monkeypatch, 2**30, *options) == 1  # one does not fit either, but there is nothing smaller


def test_if_memory_cannot_be_estimated_a_number_must_be_given(monkeypatch, folder):
    monkeypatch.setattr(choice, "Costs", lambda *_: (_ for _ in ()).throw(AttributeError("no hidden_size")))
    with pytest.raises(UserError, match=r"pass train.micro_batch_size=<number>") as caught:
        chosen(monkeypatch, 2**34, f"model.name={folder}")
    assert "AttributeError: no hidden_size" in caught.value.problems[0].reason
