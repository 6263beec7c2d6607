"""The embedding attack against an independent version in plain torch, and properties of its curve."""

import pytest
import torch

from mat_ds.evaluation.attacks.embedding import GradientAttack, robustness_curve, worse
from mat_ds.evaluation.attacks.embedding_balls import Ball
from mat_ds.evaluation.scores import Outcome
from mat_ds.methods.batch import MicroBatch
from mat_ds.models.perturb import EmbeddingPerturbation
from tests.equivalence.oracle import logits_of
from tests.support.kinds import CLASSIFICATION, REGRESSION
from tests.support.tiny import global_batches, tiny_roberta

BALLS = [("linf", "example"), ("l2", "example"), ("l2", "token")]
RADII = (0.0, 1e-2, 5e-2, 0.2)
STEPS, STEP_SIZE, WIDTH = 4, 0.6, 24


def problem(labels=3, left_padding=False, seed=0):
    """(perturbed, batch, mask, keys): a tiny model in evaluation mode, and a batch of texts of different lengths."""
    model = tiny_roberta(labels, seed=seed).eval().requires_grad_(False)
    (batch,) = global_batches(1, labels=labels, left_padding=left_padding)
    hook = EmbeddingPerturbation(model)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}

    def perturbed(delta):
        with hook.applied(delta):
            return model(**inputs).logits

    return model, perturbed, batch, inputs["attention_mask"].unsqueeze(-1).float(), [(7, row) for row in range(8)]


def curve(labels=3, norm="linf", of="example"):
    _, perturbed, batch, mask, keys = problem(labels)
    ascent = GradientAttack(Ball(norm, of), STEPS, STEP_SIZE)
    kind = REGRESSION if labels == 1 else CLASSIFICATION
    begin = ascent.ball.start(keys, mask, WIDTH)
    return robustness_curve(perturbed, micro_batch(batch["labels"], mask), [begin], RADII, ascent, kind).kept


def size_of(delta, norm, of):
    """The norm that a ball bounds, (B,)."""
    if norm == "linf":
        return delta.abs().amax((1, 2))
    return delta.flatten(1).norm(dim=1) if of == "example" else delta.norm(dim=2).amax(1)


def micro_batch(labels, mask):
    return MicroBatch({"attention_mask": mask.squeeze(-1).long()}, labels, 0)


def length(vector, of):
    """The Euclidean norm of a perturbation (L, H), or of each token's."""
    return vector.norm() if of == "example" else vector.norm(dim=1, keepdim=True)


def by_hand(model, ids, label, begin, norm, of):
    """The worst logits at each radius for one example without padding, in float64 through `inputs_embeds`."""
    batch = {"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None]}
    clean = logits_of(model, batch)[0]
    kept, curve = clean, [clean]
    for radius in RADII[1:]:
        delta = radius * begin
        for step in range(STEPS + 1):
            delta = delta.clone().requires_grad_()
            logits = logits_of(model, batch, delta[None])[0]
            if badness(logits, label) > badness(kept, label):
                kept = logits.detach()
            if step < STEPS:
                (g,) = torch.autograd.grad(loss_of(logits, label), delta)
                moved = delta.detach() + STEP_SIZE * radius * (g.sign() if norm == "linf" else g / length(g, of))
                delta = moved.clamp(-radius, radius) if norm == "linf" else moved * (radius / length(moved, of)).clamp(max=1)
        curve.append(kept)
    return torch.stack(curve).detach()


def loss_of(logits, label):
    return (logits[0] - label) ** 2 if len(logits) == 1 else -logits.log_softmax(-1)[int(label)]


def badness(logits, label):
    return (len(logits) > 1 and int(logits.argmax()) != int(label), float(loss_of(logits.detach(), label)))


@pytest.mark.parametrize(("norm", "of"), BALLS)
@pytest.mark.parametrize("labels", [3, 1])
def test_the_attack_equals_pgd_on_each_example(norm, of, labels):
    found = curve(labels, norm, of)
    model, _, batch, mask, keys = problem(labels)
    begin = Ball(norm, of).start(keys, mask, WIDTH)
    exact = model.double()
    for row, label in enumerate(batch["labels"]):
        real = batch["attention_mask"][row].bool()
        expected = by_hand(exact, batch["input_ids"][row, real], label, begin[row, real].double(), norm, of)
        torch.testing.assert_close(found[row].double(), expected, atol=2e-4, rtol=0)
    assert (found[:, -1] - found[:, 0]).abs().max() > 1e-2, "the attack moves something"


@pytest.mark.parametrize("schedule", ["fixed", "apgd"])
@pytest.mark.parametrize(("norm", "of"), BALLS)
def test_the_worst_case_of_a_linear_model_is_found(norm, of, schedule):
    weights = torch.randn(2, 3, 5)
    labels, radius = torch.tensor([0.0, 0.0]), 0.1

    def linear(delta):
        return 1 + (weights * delta).sum((1, 2)).unsqueeze(1)

    mask = torch.ones(2, 3, 1)
    ascent = GradientAttack(Ball(norm, of), 40, 0.2, schedule=schedule)
    begin = 0.1 * ascent.ball.start([(0,), (1,)], mask, 5)
    worst = ascent.worst_in_ball(linear, micro_batch(labels, mask), begin, radius, REGRESSION)
    furthest = {
        ("linf", "example"): weights.abs().sum((1, 2)),
        ("l2", "example"): weights.square().sum((1, 2)).sqrt(),
        ("l2", "token"): weights.norm(dim=2).sum(1),
    }[norm, of]
    torch.testing.assert_close(worst.kept[:, 0], 1 + radius * furthest, rtol=1e-4, atol=0)


@pytest.mark.parametrize("schedule", ["fixed", "apgd"])
@pytest.mark.parametrize(("norm", "of"), BALLS)
def test_no_iterate_leaves_the_ball_or_touches_a_pad(norm, of, schedule):
    _, perturbed, batch, mask, keys = problem()
    seen = []

    def watched(delta):
        seen.append(delta.detach())
        leak = delta.sum((1, 2)).unsqueeze(1) * torch.tensor([1.0, 0.0, 0.0])  # like a model that reads its padding
        return perturbed(delta) + leak

    ascent = GradientAttack(Ball(norm, of), 6, 0.7, schedule=schedule)
    begin = ascent.ball.start(keys, mask, WIDTH)
    ascent.worst_in_ball(watched, micro_batch(batch["labels"], mask), begin, 0.3, CLASSIFICATION)
    assert len(seen) == 7 and not torch.equal(seen[0], seen[1])
    for delta in seen:
        assert (size_of(delta, norm, of) <= 0.3 * (1 + 1e-6)).all()
        assert (delta * (1 - mask) == 0).all() and (delta.abs().sum(-1) > 0).eq(mask.squeeze(-1).bool()).all()


def test_radius_zero_is_the_clean_prediction_and_accuracy_falls():
    _, perturbed, batch, *_ = problem()
    found = curve()
    assert torch.equal(found[:, 0], perturbed(None))
    right = found.argmax(-1) == batch["labels"].unsqueeze(1)
    assert (right[:, 1:] <= right[:, :-1]).all() and right[:, 0].sum() > right[:, -1].sum()


def test_what_breaks_at_a_small_radius_counts_at_a_large_one():
    """The model is wrong only close to the clean input."""

    def odd(delta):
        size = 0.0 if delta is None else float(delta.detach().abs().max())
        logits = torch.tensor([[1.0, 0.0]]) if not 0 < size <= 0.1 else torch.tensor([[0.0, 1.0]])
        return logits + (0 if delta is None else 0 * delta.sum())

    mask = torch.ones(1, 2, 1)
    ascent, begin = GradientAttack(Ball("linf"), 2, 0.5), torch.full((1, 2, 3), 0.9)
    found = robustness_curve(odd, micro_batch(torch.tensor([0]), mask), [begin], (0.0, 0.1, 1.0), ascent, CLASSIFICATION)
    assert found.right.tolist() == [[True, False, False]] and found.kept.argmax(-1).tolist() == [[0, 1, 1]]


def test_a_wrong_answer_counts_as_worse_than_a_greater_loss():
    right = Outcome(torch.tensor([[0.40, 0.30, 0.30]]), torch.tensor([0.9]), torch.tensor([True]))
    wrong = Outcome(torch.tensor([[0.45, 0.50, 0.05]]), torch.tensor([0.8]), torch.tensor([False]))
    for pair in ((right, wrong), (wrong, right)):
        assert torch.equal(worse(*pair).kept, wrong.kept)


@pytest.mark.parametrize(("norm", "of"), BALLS)
def test_a_start_depends_only_on_its_key(norm, of):
    *_, mask, keys = problem()
    *_, left, _ = problem(left_padding=True)
    ball = Ball(norm, of)
    whole, turned = ball.start(keys, mask, WIDTH), ball.start(keys, left, WIDTH)
    for row, key in enumerate(keys):
        real = mask[row, :, 0].bool()
        alone = ball.start([key], torch.ones(1, int(real.sum()), 1), WIDTH)[0]
        assert torch.equal(whole[row, real], alone) and torch.equal(turned[row, left[row, :, 0].bool()], alone)
        assert (whole[row, ~real] == 0).all()
    assert not torch.equal(ball.start([(1,)], mask[:1], WIDTH), ball.start([(2,)], mask[:1], WIDTH))
    size = size_of(whole, norm, of)
    assert ((size <= 1 + 1e-6) & (size > 0.9)).all()
    torch.testing.assert_close(size_of(ball.surface(keys, mask, WIDTH), norm, of), torch.ones(len(keys)))
