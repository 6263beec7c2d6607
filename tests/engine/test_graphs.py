"""Replayed passes are the passes: the same numbers, whatever shapes come in whatever order, and dropout of the same key."""

from itertools import product

import pytest
import torch

from mat_ds.errors import UserError
from mat_ds.methods import METHODS
from mat_ds.methods.batch import MicroBatch
from mat_ds.models.packing import Packing
from mat_ds.models.unpadded import remove_padding
from tests.models.test_unpadded import Reads
from tests.support.kinds import CLASSIFICATION
from tests.support.one_process import OneProcess
from tests.support.replayed import Rerun
from tests.support.tiny import global_batches, micro_batches, tiny_roberta

STEP = 16
PAYOFF = {torch.float32: 1e-3, torch.bfloat16: 1e-3, torch.float16: 1e-9}


def engine_of(replays, dtype=torch.float32, dropout=0.1):
    """With or without replays, and with the same steps of tokens."""
    model = tiny_roberta(dropout=dropout).to(dtype)
    assert remove_padding(model, STEP)
    return OneProcess(model, Rerun(model) if replays else None)


def batches(seed, micro=4):
    """Micro-batches of texts of several lengths."""
    return micro_batches(global_batches(1, seed=seed)[0], micro)


def delta_of(batch, size=1e-2):
    shape = *batch.inputs["input_ids"].shape, 24
    return size * torch.arange(float(torch.tensor(shape).prod())).cos().view(shape) * batch.mask


METHOD_OPTIONS = {
    "mat": {"delta_steps": 3},
    "mat, one set of masks": {"name": "mat", "dropout": "frozen", "theta_dropout": "frozen", "semantics": "released"},
    "mat, no dropout": {"name": "mat", "dropout": "off", "delta_gradient": "raw"},
    "smart": {"mu": 0.0},
    "alum": {"delta_steps": 2},
    "salt": {"derivative": "finite_difference"},
    "pgd": {"delta_steps": 2},
}


@pytest.mark.parametrize("name", METHOD_OPTIONS)
def test_outer_steps_of_a_method_end_at_the_same_weights(name):
    ends, losses = [], []
    for replays in (False, True):
        settings = {"name": name, **METHOD_OPTIONS[name]}
        kind = METHODS[settings["name"]]
        method, engine = kind(kind.Settings.model_validate(settings), CLASSIFICATION), engine_of(replays)
        for step in range(3):
            engine._outer_step = step
            losses.append(method.step(engine, batches(seed=step + 1)))
        ends.append(engine)
    plain, replayed = ends
    assert losses[:3] == losses[3:]
    for (name, found), expected in zip(replayed.model.named_parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(found, expected), name
    # Six micro-batches of several shapes, each passed several times; every shape was captured once.
    graphs = replayed.graphs
    assert graphs.captured == len(replayed.capture.shapes) < graphs.replayed and graphs.captured > 2
    first, last = tiny_roberta(dropout=0.1).parameters(), replayed.model.parameters()
    assert any(not torch.equal(one, other) for one, other in zip(first, last, strict=True))


def payoff(logits):
    return logits.square().sum(1)


@pytest.mark.parametrize("dtype", PAYOFF)
def test_predictions_and_gradients_are_those_of_the_pass_with_the_same_key_while_all_are_alive(dtype):
    found, expected, scale = [], [], PAYOFF[dtype]
    for replays, results in ((True, found), (False, expected)):
        engine = engine_of(replays, dtype)
        for batch, masks in product((*batches(1), *batches(2), *batches(1, micro=8)), (("a",), None, ("b",))):
            engine._outer_step = batch.index
            results.append(engine.probe(batch, masks))
            results.append(engine.probe(batch, masks, delta_of(batch)))
            results.append(engine.delta_gradient(batch, masks, delta_of(batch), lambda logits: scale * payoff(logits)))
            # What trains has the units dropped that were dropped in the replay before it.
            results.append(engine.forward(batch, masks, delta_of(batch)).detach().float())
        assert bool(engine._all_finite)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other) and one.abs().sum() > 0
    assert all(torch.equal(found[i + 1], found[i + 3]) for i in range(0, len(found), 4))
    assert len({one.data_ptr() for one in found}) == len(found) == 60


def test_texts_of_each_length_get_the_graph_of_their_shape_and_further_shapes_are_computed_as_ever():
    engine, plain = engine_of(True), engine_of(False)
    engine.graphs._most = 2
    every = [batch for seed in (1, 2, 3, 4) for batch in batches(seed)]
    sizes = {Packing.of(b.inputs["attention_mask"], STEP).tokens for b in every}
    shapes = {(Packing.of(b.inputs["attention_mask"], STEP).tokens, b.inputs["input_ids"].shape[1]) for b in every}
    assert len(sizes) > 1 and len(shapes) > 2
    for batch in (*every, *every):
        assert torch.equal(engine.probe(batch, ("a",)), plain.probe(batch, ("a",)))
    assert engine.graphs.captured == 2 and 0 < engine.graphs.replayed < len(every) * 2


def test_passes_of_one_shape_are_told_apart_by_how_many_tokens_are_real():
    engine, plain, ids = engine_of(True), engine_of(False), torch.arange(48).view(4, 12) + 3
    for lengths, captured in (((12, 4, 4, 4), 1), ((12, 12, 12, 11), 2), ((12, 2, 2, 2), 2), ((12, 12, 12, 12), 3)):
        mask = (torch.arange(12) < torch.tensor(lengths)[:, None]).long()
        batch = MicroBatch({"input_ids": ids.where(mask.bool(), 1), "attention_mask": mask}, torch.zeros(4), 0)
        assert torch.equal(engine.probe(batch, ("a",)), plain.probe(batch, ("a",)))
        assert engine.graphs.captured == captured


def test_a_pass_within_a_payoff_does_not_disturb_the_gradient_around_it():
    batch, results = batches(1)[0], []
    for replays in (True, False):
        engine = engine_of(replays)
        engine.probe(batch, None)

        def against_clean(logits):
            return payoff(logits - engine.probe(batch, None))  # noqa: B023

        results.append(engine.delta_gradient(batch, None, delta_of(batch), against_clean))
        with pytest.raises(ZeroDivisionError):
            engine.delta_gradient(batch, None, delta_of(batch), lambda _: 1 / 0)
        results.append(engine.probe(batch, None))
    assert torch.equal(results[0], results[2]) and torch.equal(results[1], results[3])


def test_weights_are_read_where_they_are_and_passes_are_captured_anew_once_they_have_moved():
    engine, plain, batch = engine_of(True, dropout=0.0), engine_of(False, dropout=0.0), batches(1)[0]
    for _ in range(2):
        for one in (engine, plain):
            one.backward(payoff(one.forward(batch, None)).mean())
            one.update()
        assert torch.equal(engine.probe(batch, None), plain.probe(batch, None)) and engine.graphs.captured == 1
    weight = engine.model.classifier.dense.weight
    weight.data = weight.data.clone()
    assert torch.equal(engine.probe(batch, None), plain.probe(batch, None)) and engine.graphs.captured == 2


def test_what_a_graph_cannot_do_is_not_asked_of_one():
    engine, batch = engine_of(True), batches(1)[0]
    plain = engine_of(False)
    second = engine.delta_gradient(batch, None, delta_of(batch), payoff, differentiable=True)
    assert second.grad_fn is not None and torch.equal(
        second, plain.delta_gradient(batch, None, delta_of(batch), payoff, differentiable=True)
    )
    for one, other in zip(engine.realised(batch, delta_of(batch)), plain.realised(batch, delta_of(batch)), strict=True):
        assert torch.equal(one, other)
    assert engine.graphs.captured == 0
    engine.capture.fails = RuntimeError("operation not permitted when stream is capturing\nmore")
    with pytest.raises(UserError) as caught:
        engine.probe(batch, None)
    (problem,) = caught.value.problems
    assert (problem.key, problem.value) == ("model.compile", "graphs") and "stream is capturing)" in problem.reason
    engine.capture.fails = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        engine.probe(batch, None)


def test_texts_that_do_not_begin_at_the_left_are_replayed_with_their_padding():
    engine, plain = engine_of(True), engine_of(False)
    (raw,) = global_batches(1, left_padding=True)
    (batch,) = micro_batches(raw, 8)
    for _ in range(2):
        assert torch.equal(engine.probe(batch, ("a",)), plain.probe(batch, ("a",)))
    assert engine.graphs.captured == 1 and engine.graphs.replayed == 2


def test_the_host_reads_nothing_in_a_pass_that_is_captured():
    """A graph cannot record what it would do with the value."""
    engine, (batch, *_) = engine_of(True), batches(1)
    delta, _ = delta_of(batch), Packing.of(batch.inputs["attention_mask"], STEP)
    with Reads() as reads:
        engine.probe(batch, ("a",), delta)
        engine.delta_gradient(batch, ("a",), delta, payoff)
    assert engine.graphs.captured == 2 and not reads.found
