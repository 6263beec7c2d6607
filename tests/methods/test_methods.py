"""Properties of methods: bounds, repeated steps, refusals, and that MAT without its parts is vanilla fine-tuning."""

import itertools

import pytest
import torch

from mat_ds.methods import METHODS, ops
from tests.support.dropped import dropped_units
from tests.support.kinds import CLASSIFICATION
from tests.support.plain_engine import PlainEngine
from tests.support.tiny import global_batches, micro_batches, tiny_roberta


def mat(**settings):
    player = METHODS["mat"]
    return player(player.Settings(**{"delta_steps": 3, "theta_steps": 2, **settings}), CLASSIFICATION)


def batches(micro=4):
    return micro_batches(global_batches(1)[0], micro)


RADIUS = 1e-3


COMBINATIONS = list(itertools.product(("rescale", "clamp"), ("linf", "l2", "raw"), ("normal", "uniform", "constant")))


@pytest.mark.parametrize("projection, gradient, init", COMBINATIONS)
def test_every_sample_of_delta_obeys_the_bound_after_its_noise(projection, gradient, init):
    sizes = {"delta_init_scale": 1.0, "delta_lr": 0.1, "delta_noise": 0.5, "delta_max_norm": RADIUS, "beta_s": 0.0}
    kinds = {"delta_projection": projection, "delta_gradient": gradient}
    method = mat(**sizes, **kinds, delta_init=init, dropout="off")
    samples = []

    class Watched(PlainEngine):
        def delta_gradient(self, batch, masks, delta, payoff, differentiable=False):
            samples.append(delta)
            return super().delta_gradient(batch, masks, delta, payoff, differentiable)

    (batch, *_) = batches()
    samples.append(method.adversary(Watched(tiny_roberta()), batch))  # with beta_s = 0 the average is the last sample
    assert len(samples) == 4  # delta^(1) and three more
    for delta in samples:
        assert ops.linf(delta).max() <= RADIUS
        assert (delta[(batch.mask == 0).expand_as(delta)] == 0).all()


def test_released_semantics_project_before_the_noise_and_do_not_project_the_first_sample():
    method = mat(
        semantics="released",
        delta_init_scale=10 * RADIUS,
        delta_lr=0.1,
        delta_noise=0.01,
        delta_max_norm=RADIUS,
        dropout="off",
        beta_s=0.9,
    )
    (batch, *_) = batches()
    mean = method.adversary(PlainEngine(tiny_roberta().eval()), batch)
    assert ops.linf(mean).max() > RADIUS
    assert method.chain.anchor == "first_update" and mat().chain.anchor == "start"


def test_every_method_that_perturbs_has_the_option_on_invisible():
    asked = {name for name, method in METHODS.items() if "on_invisible" in method.Settings.model_fields}
    assert (
        asked == {name for name, method in METHODS.items() if method.perturbs()} == METHODS.keys() - {"vanilla", "rdrop", "sam"}
    )
    for name in asked:
        settings = METHODS[name].Settings
        assert settings(on_invisible="error").refuses_idling and not settings(on_invisible="warn").refuses_idling
    assert not any(METHODS[name].Settings().refuses_idling for name in METHODS.keys() - asked)


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_change_of_the_model_is_folded_into_the_exported_weights(name):
    model, plain = tiny_roberta().eval(), tiny_roberta().eval()
    before = {key: value.clone() for key, value in model.named_parameters()}
    fold = METHODS[name].prepare_model(model, METHODS[name].Settings())
    assert all(torch.equal(value, before[key]) for key, value in model.named_parameters())
    (batch,) = batches(micro=8)
    found, weights = model(**batch.inputs).logits, dict(model.state_dict())
    assert (fold is None) == torch.equal(found, plain(**batch.inputs).logits) == (name != "r4f")
    if fold:
        fold(weights)
        plain.load_state_dict(weights)
        torch.testing.assert_close(plain(**batch.inputs).logits, found)
        head = plain.classifier.out_proj.weight
        assert torch.linalg.svdvals(head.double())[0].item() == pytest.approx(1, abs=1e-6)


def test_mat_without_lambda_is_vanilla_and_makes_no_perturbed_pass():
    settings = METHODS["vanilla"].Settings()
    players = mat(lam=0.0, theta_steps=1, beta_s=0.0, beta_p=0.0), METHODS["vanilla"](settings, CLASSIFICATION)
    models, results, passes = [tiny_roberta(dropout=0.1, attn_implementation="eager") for _ in players], [], []
    for player, model in zip(players, models, strict=True):
        with dropped_units(model, 4) as made:
            results.append(player.step(PlainEngine(model), batches()))
        passes.append(made)
    assert len(passes[0]) == 2 and all(torch.equal(a, b) for a, b in zip(*passes, strict=True))
    assert results[0]["loss"] == results[1]["loss"]
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        assert (a.grad is None and b.grad is None) or torch.equal(a.grad, b.grad)
    assert not players[0].chain.is_mixed


def test_an_update_that_fp16_skipped_is_repeated():
    engine = PlainEngine(tiny_roberta(), samples=3, skips={1, 2, 4})
    mat(theta_steps=3).step(engine, batches(micro=8))
    assert engine.updates == 6


def test_a_perturbation_that_cannot_move_is_refused():
    for dropout in ("frozen", "off"):
        (problem,) = METHODS["mat"].Settings(delta_init="zero", dropout=dropout).problems()
        assert problem.key == "method.delta_init" and dropout in problem.reason
    assert not list(METHODS["mat"].Settings(delta_init="zero", dropout="independent").problems())
    assert not list(METHODS["mat"].Settings(delta_init="zero", dropout="off", lam=0.0).problems())


def test_lambda_scales_only_the_raw_gradient():
    def mean(lam, gradient):
        method = mat(
            lam=lam,
            delta_gradient=gradient,
            dropout="off",
            delta_max_norm=1e6,
            delta_lr=1e-1,
            delta_noise=0.0,
            delta_init_scale=1e-2,
        )
        return method.adversary(PlainEngine(tiny_roberta().eval()), batches()[0])

    assert torch.equal(mean(1.0, "linf"), mean(5.0, "linf"))
    assert not torch.equal(mean(1.0, "raw"), mean(5.0, "raw"))


def test_r4f_divides_a_head_that_is_frozen_too():
    model = tiny_roberta()
    model.classifier.requires_grad_(False)
    fold = METHODS["r4f"].prepare_model(model, None)
    weights = {"classifier.out_proj.weight": model.classifier.out_proj.weight.detach()}
    fold(weights)
    assert torch.linalg.svdvals(weights["classifier.out_proj.weight"])[0].item() == pytest.approx(1.0, rel=1e-5)
