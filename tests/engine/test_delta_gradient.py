"""The gradient of a perturbation in fp16 equals that in fp32, for outputs of any shape and arbitrarily small payoffs."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, BertConfig, BertForMultipleChoice, GPT2Config

from mat_ds.engine.passes import Passes
from mat_ds.methods.batch import MicroBatch
from mat_ds.models.perturb import EmbeddingPerturbation

SIZES = {"vocab_size": 32, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}


def gradient(auto_class, dtype, scale):
    """The gradient of a payoff that depends on all outputs, scaled by `scale`."""
    torch.manual_seed(0)
    model = auto_class.from_config(GPT2Config(**SIZES, pad_token_id=0)).eval().to(dtype)
    ds = SimpleNamespace(
        module=model, device="cpu", fp16_enabled=lambda: dtype == torch.float16, bfloat16_enabled=lambda: False
    )
    passes = Passes(ds, EmbeddingPerturbation(model), seed=0)
    tokens = torch.tensor([[3, 5, 7, 9], [4, 6, 8, 10]])
    batch = MicroBatch({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}, tokens[:, 0], 0)
    delta = 1e-2 * torch.ones(2, 4, 16)
    found = passes.delta_gradient(batch, None, delta, lambda output: scale * output.square().flatten(1).sum(1))
    assert found.isfinite().all()
    return found.double()


@pytest.mark.parametrize("scale", [1.0, 1e-9])
def test_the_gradient_of_choices_in_fp16_equals_that_in_fp32(scale):
    half, full = (gradient_of_choices(dtype, scale) for dtype in (torch.float16, torch.float32))
    assert (full.flatten(1).norm(dim=1) > 0).all()
    assert ((half - full).flatten(1).norm(dim=1) / full.flatten(1).norm(dim=1) < 2e-2).all()


def gradient_of_choices(dtype, scale):
    """As `gradient`, of two samples of two choices each, whose payoffs differ by a factor of 1000."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertForMultipleChoice(BertConfig(**sizes, initializer_range=0.3)).eval().to(dtype)
    ds = SimpleNamespace(
        module=model, device="cpu", fp16_enabled=lambda: dtype == torch.float16, bfloat16_enabled=lambda: False
    )
    passes = Passes(ds, EmbeddingPerturbation(model), seed=0)
    tokens = torch.tensor([[3, 5, 7, 9], [4, 6, 8, 10], [3, 4, 5, 6], [9, 8, 7, 6]]).view(2, 2, 4)
    batch = MicroBatch({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}, torch.tensor([0, 1]), 0)
    factors = scale * torch.tensor([1.0, 1e-3])
    return passes.delta_gradient(batch, None, 1e-2 * torch.ones(4, 4, 16), lambda z: factors * z.square().sum(1)).double()


@pytest.mark.parametrize("auto_class", [AutoModelForSequenceClassification, AutoModelForCausalLM], ids=["(B, C)", "(B, L, V)"])
@pytest.mark.parametrize("scale", [1.0, 1e-9])
def test_the_gradient_in_fp16_equals_that_in_fp32(auto_class, scale):
    half, full = (gradient(auto_class, dtype, scale) for dtype in (torch.float16, torch.float32))
    assert full.norm() > 0 and (half - full).norm() / full.norm() < 2e-2
