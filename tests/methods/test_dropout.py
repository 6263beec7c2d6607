"""Which passes of an outer step drop the same units, read from the zeros that dropout leaves, for every method."""

import pytest
import torch

from mat_ds.methods import METHODS
from mat_ds.methods.batch import MicroBatch
from tests.support.dropped import distinct, dropped_units, shares
from tests.support.kinds import CLASSIFICATION
from tests.support.plain_engine import PlainEngine
from tests.support.tiny import global_batches, micro_batches, tiny_roberta

DROPOUT = 0.2
(BATCH,) = micro_batches(global_batches(1)[0], 8)


def build(name, **settings):
    return METHODS[name](METHODS[name].Settings(name=name, **settings), CLASSIFICATION)


def mat(**settings):
    return build("mat", **{"delta_steps": 3, "theta_steps": 2, **settings})


def made(play, method, *batches, outer_step=0):
    """The dropped units of each pass of `play`, the name of a function of the method."""
    engine = PlainEngine(tiny_roberta(dropout=DROPOUT, attn_implementation="eager"), method.chain.samples)
    engine.outer_step = outer_step
    with dropped_units(engine.model, 8 // len(batches)) as passes:
        getattr(method, play)(engine, list(batches) if play == "step" else batches[0])
    return passes


def all_drop(passes):
    return all(DROPOUT / 2 < share < DROPOUT * 1.2 for share in shares(passes))  # attention to pads is zero before dropout


def test_independent_passes_of_the_perturbations_loop_all_drop_different_units():
    passes = made("adversary", mat(dropout="independent"), BATCH)
    assert all_drop(passes) and len(passes) == distinct(passes) == 6  # clean and perturbed, three times


def test_frozen_passes_of_the_perturbations_loop_drop_the_same_units():
    passes = made("adversary", mat(dropout="frozen"), BATCH)
    assert all_drop(passes) and len(passes) > 3 and distinct(passes) == 1


def test_without_dropout_the_perturbations_loop_drops_nothing():
    passes = made("adversary", mat(dropout="off"), BATCH)
    assert len(passes) > 3 and set(shares(passes)) == {0.0}


@pytest.mark.parametrize("dropout, sets", [("independent", 6), ("frozen", 1), ("off", 1)])
def test_every_pass_of_the_parameters_loop_drops_different_units(dropout, sets):
    passes = made("step", mat(dropout=dropout), BATCH)
    assert all_drop(passes[-4:]) and distinct(passes) == sets + 2 * 2


def test_both_passes_of_the_divergence_can_drop_the_same_units_which_change_with_every_sample():
    passes = made("step", mat(theta_dropout="frozen", theta_steps=3), BATCH)[-6:]
    for clean, perturbed in zip(passes[::2], passes[1::2], strict=True):
        assert torch.equal(clean, perturbed)
    assert not any(torch.equal(passes[0], other) for other in passes[2:])


@pytest.mark.parametrize(
    "name, settings", [("mat", {}), ("mat", {"dropout": "frozen", "theta_dropout": "frozen"}), ("freelb", {})]
)
def test_other_outer_steps_and_micro_batches_drop_other_units(name, settings):
    method = build(name, **settings)
    now, later = (made("step", method, BATCH, outer_step=t) for t in (0, 1))
    assert not any(torch.equal(one, other) for one in now for other in later)
    first, second = ({key: value[part] for key, value in BATCH.inputs.items()} for part in (slice(4), slice(4, 8)))
    halves = MicroBatch(first, BATCH.labels[:4], 0), MicroBatch(second, BATCH.labels[4:], 1)
    assert distinct(made("step", method, *halves)) == 2 * distinct(now)


@pytest.mark.parametrize("name", ["freelb", "pgd"])
def test_all_passes_of_a_batch_drop_the_same_units(name):
    passes = made("step", build(name), BATCH)
    assert all_drop(passes) and len(passes) > 2 and distinct(passes) == 1


def test_freeats_replays_drop_different_units():
    passes = made("step", build("freeat", delta_steps=3), BATCH)
    assert all_drop(passes) and len(passes) == distinct(passes) == 3


@pytest.mark.parametrize("name", ["rdrop", "r3f", "r4f"])
def test_the_two_passes_of_rdrop_and_r3f_drop_different_units(name):
    passes = made("step", build(name), BATCH)
    assert all_drop(passes) and len(passes) == distinct(passes) == 2


@pytest.mark.parametrize("name", ["smart", "alum"])
def test_every_pass_of_a_virtual_adversary_drops_different_units(name):
    """Only the teacher's pass, whose prediction is a target, drops nothing."""
    passes = made("step", build(name, delta_steps=2), BATCH)
    trained = passes[1:] if name == "smart" else passes
    assert all_drop(trained) and len(trained) == distinct(trained) == 4
    assert name != "smart" or not passes[0].any()


@pytest.mark.parametrize("follower, sets", [("joint", 3), ("released", 3)])
def test_salts_differences_are_taken_under_the_units_of_the_followers_step(follower, sets):
    """The repeated clean pass drops the same units as the first."""
    passes = made("step", build("salt", derivative="finite_difference", follower=follower), BATCH)
    assert all_drop(passes) and len(passes) > distinct(passes) == sets
    step, above, below = passes[1], *passes[-2:]
    assert torch.equal(step, above) and torch.equal(step, below)
