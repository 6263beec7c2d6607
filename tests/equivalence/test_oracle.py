"""The comparisons of the distributed tests would notice errors, since each changes the oracle's result enough."""

import dataclasses
import itertools

import pytest
import torch

from mat_ds.ranks.chains import Chains
from tests.equivalence import oracle, rivals
from tests.equivalence.chains import rounded_to_bf16, rounded_to_int8, run_chains
from tests.support.drawn import DrawnNoise
from tests.support.tiny import global_batches, shallow_roberta
from tests.workers.worker import LR, MAT, ORACLE_OPTIONS

BATCHES = global_batches()
ORIGIN = dict(shallow_roberta().named_parameters())


def run(method="mat", delta_noise=0.0, theta_noise=0.0, **settings):
    chosen = oracle.Settings(**{**{k: MAT[k] for k in ORACLE_OPTIONS}, **settings})
    noise = DrawnNoise(shallow_roberta(), {**MAT, "delta_noise": delta_noise, "theta_noise": theta_noise}, BATCHES)
    return oracle.run(shallow_roberta(), BATCHES, chosen, method, noise)


@pytest.fixture(scope="module")
def reference():
    return run()


@pytest.mark.parametrize(
    "options",
    [
        {"lam": 0.0},
        {"lam": 3.0},
        {"semantics": "released"},
        {"delta_projection": "clamp"},
        {"delta_gradient": "l2", "delta_lr": 5.0},
        {"delta_gradient": "raw", "delta_lr": 5.0},
        {"beta_s": 0.7},
        {"beta_p": 0.1},
        {"delta_steps": 1},
        {"theta_steps": 3},
        {"update": "sgd"},
        {"weight_decay": 1.0},
        {"layer_decay": 0.5},
        {"head_lr": 3e-3},
        {"delta_noise": 6e-2},
        {"theta_noise": 1e-2},
        {"method": "vanilla"},
    ],
    ids=str,
)
def test_every_option_moves_the_result_by_ten_times_the_tolerance(options, reference):
    assert oracle.distance(run(**options), reference, ORIGIN) > 1e-2


def test_chains_that_would_not_meet_or_share_draws_or_moments_would_be_noticed(reference):
    def of(chains, moments=False, same=False):
        method = {**MAT, "theta_noise": 1e-2}
        settings = oracle.Settings(**{k: method[k] for k in ORACLE_OPTIONS})
        owners = [0 if same else own for own in range(chains)]
        noises = [DrawnNoise(shallow_roberta(), method, BATCHES, chains=Chains(2, own)) for own in owners]
        return run_chains(shallow_roberta(), BATCHES, settings, noises, moments)

    two = of(2)
    assert (
        min(oracle.distance(other, two, ORIGIN) for other in (of(2, moments=True), of(2, same=True), run(theta_noise=1e-2)))
        > 1e-2
    )


def test_moves_that_are_not_rounded_or_without_error_feedback_would_be_noticed():
    batches, alone, kinds = global_batches(3), [oracle.NoNoise()] * 2, {}
    for name, rounded, feedback in (("exact", None, False), ("bf16", rounded_to_bf16, False), ("int8", rounded_to_int8, True),
                                    ("int8 alone", rounded_to_int8, False)):  # fmt: skip
        kinds[name] = run_chains(
            shallow_roberta(), batches, oracle.Settings(), alone, method="vanilla", rounded=rounded, feedback=feedback
        )
    apart = {(a, b): oracle.distance(kinds[a], kinds[b], ORIGIN) for a, b in itertools.combinations(kinds, 2)}
    assert min(apart.values()) > 1.5e-3, apart


def test_local_sgd_that_meets_at_other_steps_would_be_noticed():
    batches, alone = global_batches(3), [oracle.NoNoise()] * 2

    def of(every):
        return run_chains(shallow_roberta(), batches, oracle.Settings(), alone, method="vanilla", every=every)

    assert min(oracle.distance(of(every), of(2), ORIGIN) for every in (1, 3)) > 1e-2


def test_a_missing_gradient_clipping_would_be_noticed():
    sgd = {"update": "sgd", "lr": LR["sgd"]}
    assert oracle.distance(run(**sgd, max_grad_norm=0.5), run(**sgd), ORIGIN) > 1e-2


def test_a_missing_gradient_would_be_noticed(reference):
    frozen = shallow_roberta()
    frozen.classifier.dense.weight.requires_grad_(False)
    result = {name: p.double() for name, p in reference.items()}
    result["classifier.dense.weight"] = ORIGIN["classifier.dense.weight"].double()
    assert oracle.distance(result, reference, ORIGIN) > 1e-2


def test_vanilla_equals_a_plain_training_loop():
    model = shallow_roberta().double().eval()
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=1e-3,
    )
    for batch in BATCHES:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        torch.nn.functional.cross_entropy(model(**inputs).logits, batch["labels"]).backward()
        optimizer.step()
    assert oracle.distance(dict(model.named_parameters()), run("vanilla"), ORIGIN) < 1e-10


@pytest.mark.parametrize("wrong", ["no ascent", "vectors too", "one norm for all", "no delta"])
def test_each_part_of_awp_would_be_noticed(wrong, monkeypatch):
    options = {"name": "awp", "delta_steps": 2, "delta_lr": 0.4, "delta_init_norm": 0.3, "delta_max_norm": 0.5}
    noise = DrawnNoise(shallow_roberta(), options, BATCHES)

    def ended(**more):
        settings = rivals.Settings(delta_steps=2, delta_lr=0.4, delta_init=0.3, delta_max_norm=0.5, gamma=0.2)
        return rivals.run(shallow_roberta(), BATCHES, dataclasses.replace(settings, **more), "awp", noise)[0]

    def vectors_too(parameters, slopes, s):
        return [s.gamma * p.norm() * g / g.norm().clamp(min=1e-300) for p, g in zip(parameters, slopes, strict=True)]

    def one_norm(parameters, slopes, s):
        size, slope = (sum(t.pow(2).sum() for t in each).sqrt() for each in (parameters, slopes))
        return [s.gamma * size * g / slope if g.ndim > 1 else 0 * g for g in slopes]

    truth = ended()
    if wrong in ("vectors too", "one norm for all"):
        monkeypatch.setattr(rivals, "layer_steps", {"vectors too": vectors_too, "one norm for all": one_norm}[wrong])
    found = ended(**{"no ascent": {"gamma": 0.0}, "no delta": {"delta_steps": 0}}.get(wrong, {}))
    assert oracle.distance(found, truth, ORIGIN) > 1e-2
