"""On a GPU: a batch is moved there without waiting for it."""

import pytest
import torch

from mat_ds.tasks.example import Example
from mat_ds.tasks.loader import Collator
from tests.support.kinds import CLASSIFICATION

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU here")]


class Tokenizer:
    def pad(self, stored, return_tensors):
        return {name: torch.tensor([each[name] for each in stored]) for name in stored[0]}


def test_a_batch_is_moved_without_waiting_for_what_the_gpu_has_to_do():
    examples = [Example(("a",), i % 3, {"input_ids": [0, i, 2], "attention_mask": [1, 1, 1]}) for i in range(8)]
    collate = Collator(Tokenizer(), 8, CLASSIFICATION)
    expected, labels = collate(examples, torch.device("cpu"))
    torch.cuda.synchronize()
    torch.cuda._sleep(100_000_000)
    busy = torch.cuda.Event()
    busy.record()
    inputs, there = collate(examples, torch.device("cuda"))
    assert not busy.query()  # the host is back while the GPU has not come to the batch yet
    assert there.is_cuda and there.cpu().equal(labels)
    assert all(value.is_cuda and value.cpu().equal(expected[name]) for name, value in inputs.items())
