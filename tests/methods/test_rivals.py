"""Properties of MAT's rivals: their cost, the balls of their perturbations, and what they refuse."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mat_ds.methods import METHODS, ops
from mat_ds.methods.settings import Serves
from mat_ds.models.options import ModelConfig
from mat_ds.runs.ds_config import serves
from mat_ds.runs.options import RunConfig
from tests.support.kinds import CLASSIFICATION, REGRESSION
from tests.support.plain_engine import PlainEngine
from tests.support.tiny import global_batches, micro_batches, tiny_roberta

SETTINGS = [
    {"name": "vanilla"}, {"name": "freelb"}, {"name": "freelb", "delta_steps": 5}, {"name": "pgd", "delta_steps": 2},
    {"name": "yopo", "layers": 2}, {"name": "yopo", "layers": 2, "delta_steps": 2, "layer_steps": 5},
    {"name": "yopo", "layers": 2, "delta_steps": 1},
    {"name": "freeat", "delta_steps": 2}, {"name": "smart"}, {"name": "smart", "mu": 0.0, "delta_steps": 3}, {"name": "alum"},
    {"name": "rdrop"}, {"name": "neftune"}, {"name": "sam"}, {"name": "awp"}, {"name": "awp", "delta_steps": 0},
    {"name": "r3f"}, {"name": "r4f"},
    {"name": "salt", "derivative": "exact"},
    {"name": "salt", "derivative": "finite_difference"},
    {"name": "salt", "derivative": "finite_difference", "follower": "released"},
    *({"name": "mat", "delta_steps": 3, "theta_steps": 2, **more} for more in (
        {}, {"dropout": "frozen"}, {"dropout": "off"}, {"semantics": "released"}, {"theta_dropout": "frozen"}, {"lam": 0.0})),
    {"name": "mat", "delta_steps": 5, "theta_steps": 10},
]  # fmt: skip


def build(regression=False, **settings):
    player = METHODS[settings["name"]]
    return player(player.Settings(**settings), REGRESSION if regression else CLASSIFICATION)


def batches(micro=8, **more):
    return micro_batches(global_batches(1, **more)[0], micro)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_stated_cost_equals_the_multiplications_of_a_step(settings):
    """The multiplications are counted by torch, independently of the method."""
    model = tiny_roberta(attn_implementation="eager", hidden_size=64, intermediate_size=256)
    method, own = build(**settings), batches()
    engine = PlainEngine(model, method.chain.samples)
    with FlopCounterMode(display=False) as one, torch.no_grad():
        model(**own[0].inputs)
    with FlopCounterMode(display=False) as all_of_them:
        method.step(engine, own)
    # The first layer's input has a gradient only where a perturbation asks for it, and the head is small.
    assert all_of_them.get_total_flops() / one.get_total_flops() == pytest.approx(method.cost, rel=0.05)


def test_methods_make_the_published_number_of_updates_per_step():
    for settings, updates in (
        ({"name": "freelb", "delta_steps": 4}, 1),
        ({"name": "freeat", "delta_steps": 4}, 4),
        ({"name": "salt"}, 1),
    ):
        method = build(**settings)
        engine = PlainEngine(tiny_roberta(), method.chain.samples)
        method.step(engine, batches(4))
        assert engine.updates == updates == method.chain.samples


@pytest.mark.parametrize("name", ["freelb", "yopo", "pgd", "freeat"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_perturbations_stay_in_their_ball_and_off_the_pads(name, norm):
    method = build(name=name, delta_norm=norm, delta_lr=10.0, delta_max_norm=0.1)
    (batch,) = batches()
    delta = method.adversary(PlainEngine(tiny_roberta()), batch).detach()
    size = ops.l2(delta) if norm == "l2" else ops.linf(delta)
    assert size.max() <= 0.1 * (1 + 1e-6) and size.min() > 0.09
    assert (delta[(batch.mask == 0).expand_as(delta)] == 0).all()


def test_the_uniform_start_has_one_expected_length_whatever_the_sentence():
    from mat_ds.methods.ball import BallSettings, uniform_delta

    (batch,) = batches(64, examples=64)
    delta = uniform_delta(PlainEngine(tiny_roberta()), batch, BallSettings(name="x", delta_init_norm=0.3))
    assert torch.allclose(ops.l2(delta), torch.tensor(0.3 / 3**0.5), rtol=0.2)
    lengths = batch.mask.sum((1, 2))
    assert torch.corrcoef(torch.stack([lengths, ops.l2(delta).flatten()]))[0, 1].abs() < 0.4


def test_an_overflowed_replay_is_repeated_from_the_same_perturbation():
    (start, again), seen = ({}, {3}), []
    for skips in (start, again):
        engine, method = PlainEngine(tiny_roberta(), samples=4, skips=skips), build(name="freeat", delta_steps=4)
        forward, inputs = engine.forward, []
        engine.forward = lambda b, m, d, f=forward, kept=inputs: kept.append(d.detach().clone()) or f(b, m, d)
        method.step(engine, batches())
        seen.append(inputs)
    plain, repeated = seen
    assert len(repeated) == 5 and torch.equal(repeated[2], repeated[3]) and torch.equal(plain[2], repeated[2])


def test_r3fs_noised_pass_does_not_train_the_words():
    grads = {}
    for noised in (True, False):
        model = tiny_roberta()
        engine, (batch,) = PlainEngine(model), batches()
        _, perturbed = engine.forward_pair(
            batch, torch.zeros(*batch.inputs["input_ids"].shape, 24), None, train_words=not noised
        )
        perturbed.sum().backward()
        grads[noised] = model.get_input_embeddings().weight.grad
    assert grads[True].abs().sum() == 0 and grads[False].abs().sum() > 0


@pytest.mark.parametrize("follower", ["joint", "released"])
def test_salts_derivatives_agree_and_auto_takes_one_that_the_engine_supports(follower):
    gradients = []
    for form in ("exact", "finite_difference"):
        model = tiny_roberta(attn_implementation="eager")
        method = build(
            name="salt", derivative=form, follower=follower, delta_lr=5e-2, delta_init_scale=2e-2, delta_max_norm=4e-2, lam=3.0
        )
        method.step(PlainEngine(model), batches())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert (gradients[0] - gradients[1]).norm() < 2e-3 * gradients[0].norm()
    settings = METHODS["salt"].Settings()
    assert settings.settled(Serves()).derivative == "exact"
    assert settings.settled(Serves("ZeRO-3")).derivative == "finite_difference"
    refused = list(settings.model_copy(update={"derivative": "exact"}).engine_problems(Serves("ZeRO-3", half_precision=True)))
    assert [problem.key for problem in refused] == ["method.derivative", "method.name"]


def test_yopo_is_refused_where_a_pass_cannot_end_at_the_first_layer():
    def refused(stage):
        able = serves({"zero_optimization": {"stage": stage}}, ModelConfig())
        return [(problem.key, problem.fix) for problem in METHODS["yopo"].Settings().engine_problems(able)]

    assert refused(0) == refused(1) == refused(2) == []
    ((key, fix),) = refused(3)
    assert key == "method.name" and "ZeRO 0, 1 or 2" in fix


def test_each_method_is_chosen_by_name_and_refuses_options_of_others():
    for name in METHODS:
        assert RunConfig.model_validate({"method": {"name": name}}).method.name == name
    with pytest.raises(ValueError):
        RunConfig.model_validate({"method": {"name": "rdrop", "delta_steps": 3}})
