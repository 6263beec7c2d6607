"""A pass asks for no gradient but its own, and prepares a micro-batch once."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from mat_ds.engine.engine import Engine
from mat_ds.engine.passes import Passes
from mat_ds.models.freeze import freeze
from mat_ds.models.options import ModelConfig
from mat_ds.models.perturb import EmbeddingPerturbation
from mat_ds.models.recompute import recompute_activations
from tests.support.tiny import global_batches, micro_batches, tiny_roberta

(BATCH,) = micro_batches(global_batches(1)[0], 8)
LINEAR = F.linear


class Asking(torch.autograd.Function):
    """A layer that computes the gradients of whatever asks for one, as ZeRO-3's do."""

    weights = 0

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return LINEAR(x, weight, bias)

    @staticmethod
    def backward(ctx, up):
        x, weight = ctx.saved_tensors
        if ctx.needs_input_grad[1]:
            Asking.weights += 1
            return up @ weight, up.flatten(0, -2).T @ x.flatten(0, -2), up.flatten(0, -2).sum(0)
        return up @ weight, None, None


class OneProcess(Passes):
    """With the engine's backward, without DeepSpeed."""

    backward = Engine.backward
    _backwards_per_update, _scales_itself, _flat = 1, False, None

    def __init__(self, model):
        ds = SimpleNamespace(module=model.train(), device="cpu", fp16_enabled=lambda: False, bfloat16_enabled=lambda: False)
        ds.backward = lambda loss, scale_wrt_gas: loss.backward()
        super().__init__(ds, EmbeddingPerturbation(model), seed=0)
        self._training_pass = model


def payoff(output):
    return output.square().sum(1)


@pytest.mark.parametrize("recompute", [False, True])
def test_the_gradient_of_a_perturbation_computes_none_of_the_weights(recompute, monkeypatch):
    model = tiny_roberta(dropout=0.1)
    if recompute:
        recompute_activations(model)
    engine, delta = OneProcess(model), torch.full((*BATCH.inputs["input_ids"].shape, 24), 1e-2)
    expected = engine.delta_gradient(BATCH, ("a",), delta, payoff)
    through_weights = engine.delta_gradient(BATCH, ("a",), delta, payoff, differentiable=True)
    assert expected.equal(through_weights.detach()) and through_weights.grad_fn is not None
    monkeypatch.setattr(F, "linear", Asking.apply)
    Asking.weights = 0
    assert engine.delta_gradient(BATCH, ("a",), delta, payoff).allclose(expected, atol=1e-7) and Asking.weights == 0
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    engine.backward(engine.forward(BATCH, ("a",)).sum())
    assert Asking.weights > 0 and all(
        layer.weight.grad is not None for layer in model.roberta.encoder.layer[0].children() if hasattr(layer, "weight")
    )
    with pytest.raises(ZeroDivisionError):
        engine.delta_gradient(BATCH, ("a",), delta, lambda output: 1 / 0)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("options", [{"freeze": ["embeddings"]}, {"freeze_layers": 2}], ids=str)
def test_frozen_word_embeddings_are_perturbed_like_others(options, recompute):
    """The gradient of a perturbation, in its own loop and in a training pass, is what it is if nothing is frozen."""

    def gradients(model):
        if recompute:
            recompute_activations(model)
        engine, delta = OneProcess(model), torch.full((*BATCH.inputs["input_ids"].shape, 24), 1e-2)
        alone = engine.delta_gradient(BATCH, ("a",), delta, payoff)
        beside = engine.backward(payoff(engine.forward(BATCH, ("a",), delta.requires_grad_())).sum(), delta)
        clean, perturbed = engine.forward_pair(BATCH, delta.detach(), ("a",), train_words=False)
        engine.backward(payoff(clean - perturbed).sum())
        return alone, beside

    model = tiny_roberta(dropout=0.1)
    freeze(model, ModelConfig(**options), ())
    found, expected = gradients(model), gradients(tiny_roberta(dropout=0.1))
    for one, other in zip(found, expected, strict=True):
        assert one.norm() > 0 and one.allclose(other, rtol=1e-5, atol=1e-8)
    still = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    assert still and all(parameter.grad is None for parameter in still)
    assert model.classifier.dense.weight.grad is not None


@pytest.mark.parametrize("masks", [("a",), None])
def test_layers_that_are_computed_again_drop_what_they_dropped_whatever_pass_came_between(masks):
    model = tiny_roberta(dropout=0.1)

    def gradients(engine, between):
        model.zero_grad()
        output = engine.forward(BATCH, masks)
        between()
        engine.backward(output.square().sum())
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    engine = OneProcess(model)
    expected = gradients(engine, lambda: None)
    recompute_activations(model)
    other = None if masks else ("b",)
    found = gradients(engine, lambda: engine.probe(BATCH, other))
    assert len(found) == len(expected) > 0 and all(a.allclose(b, atol=1e-6) for a, b in zip(found, expected, strict=True))


def test_a_micro_batch_is_doubled_and_masked_once():
    twice = BATCH.doubled
    assert twice is BATCH.doubled and BATCH.mask is BATCH.mask and BATCH.tokens is BATCH.tokens
    for name, value in BATCH.inputs.items():
        assert twice[name].equal(torch.cat([value, value]))
