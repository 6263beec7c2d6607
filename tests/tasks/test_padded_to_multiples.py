"""Inputs that are padded to multiples are those inputs: of every kind of task, the losses stay."""

import pytest
import torch

from mat_ds.methods.batch import MicroBatch
from mat_ds.models.build import build_model, build_tokenizer
from mat_ds.models.options import ModelConfig
from mat_ds.tasks.example import Example
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.loader import Collator
from mat_ds.tasks.registry import TASKS
from tests.support import words
from tests.tasks import test_multiple_choice, test_span_qa

CPU = torch.device("cpu")
OPTIONS = ModelConfig(dropout=0.0)
TEXTS = [Example((f"the sea and {'salt ' * i}",), i % 2) for i in range(4)]
KINDS = {
    "classification": (TASKS["cola"], TEXTS),
    "multiple choice": (test_multiple_choice.SPEC, test_multiple_choice.EXAMPLES),
    "spans": (test_span_qa.SPEC, [test_span_qa.EXAMPLES[i] for i in (0, 3)]),
    "words": (words.SPEC, [Example(*found) for found in words.FOUND]),
}


@pytest.mark.parametrize("name", KINDS)
def test_losses_are_those_of_inputs_that_are_padded_to_the_longest(name):
    spec, examples = KINDS[name]
    tokenizer = build_tokenizer(OPTIONS, [text for example in examples for text in example.texts] * 30)
    kind, model = kind_of(spec), build_model(OPTIONS, spec, tokenizer, seed=0).module.double().eval()

    def batch(step, length=64):
        return MicroBatch(*Collator(tokenizer, length, kind, step)(examples, CPU), 0)

    def losses(of):
        return kind.losses(kind.read(model(**of.inputs), of.inputs), of)

    plain = batch(1)
    real = plain.inputs["input_ids"].shape[-1]
    assert real % 32 and real < 64
    for step in (32, 64):
        padded = batch(step)
        expected = {key: (*value.shape[:-1], -(-real // step) * step) for key, value in plain.inputs.items()}
        assert {key: value.shape for key, value in padded.inputs.items()} == expected
        assert not padded.inputs["attention_mask"][..., real:].any()
        torch.testing.assert_close(losses(padded), losses(plain), rtol=1e-5, atol=1e-6)
    # Never beyond what the model reads: the multiples are of what the maximum has in common with the step.
    assert batch(32, length=real + 1).inputs["input_ids"].shape[-1] <= real + 1
