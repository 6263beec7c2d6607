"""Losses, schedules and restarts of the embedding attack: against their papers' definitions, and what they must not weaken."""

import math
from itertools import product

import pytest
import torch

from mat_ds.evaluation.attacks.embedding import GradientAttack, robustness_curve
from mat_ds.evaluation.attacks.embedding_balls import Ball
from mat_ds.evaluation.attacks.embedding_losses import dlr_loss, margin_loss
from mat_ds.evaluation.attacks.embedding_options import AttackOptions, embedding_attack_problems
from mat_ds.evaluation.attacks.embedding_steps import checkpoints
from mat_ds.evaluation.attacks.gradient_free import spsa
from mat_ds.methods.batch import MicroBatch
from mat_ds.tasks.kinds import KINDS, kind_of
from mat_ds.tasks.registry import TASKS
from mat_ds.tasks.spec import TaskSpec
from tests.support.kinds import CLASSIFICATION, REGRESSION

MASK = torch.ones(6, 3, 1)


def batch_of(labels):
    return MicroBatch({"attention_mask": torch.ones(len(labels), 3, dtype=torch.long)}, torch.tensor(labels), 0)


def curved(seed=0, scale=1.0):
    """Three smooth logits of a perturbation (B, 3, 4), which rise and fall, and the labels they give at 0."""
    source = torch.Generator().manual_seed(seed)
    weights = torch.randn(3, 6, 12, generator=source, dtype=torch.float64)
    offsets = torch.randn(6, 3, generator=source, dtype=torch.float64)

    def model(delta):
        x = torch.zeros(6, 12) if delta is None else delta.flatten(1)
        z = torch.einsum("cbi,bi->bc", weights.to(x), x)
        return scale * (torch.sin(z) + 0.3 * z + offsets.to(x))

    return model, model(None).argmax(1).tolist()


def starts(ball, restarts=1):
    return [ball.start([(restart, row) for row in range(6)], MASK, 4) for restart in range(restarts)]


def curve_of(attack, radii=(0.0, 0.05, 0.2, 0.6), restarts=1, scale=1.0):
    model, labels = curved(scale=scale)
    return robustness_curve(model, batch_of(labels), starts(attack.ball, restarts), radii, attack, CLASSIFICATION)


def test_margin_and_dlr_are_those_of_their_papers():
    logits = torch.tensor([[3.0, 1.0, 0.5, -2.0], [1.0, 4.0, 2.0, 3.0]])
    batch = batch_of([0, 2])
    assert margin_loss(logits, batch).tolist() == [1.0 - 3.0, 4.0 - 2.0]
    expected = [-(3.0 - 1.0) / (3.0 - 0.5), -(2.0 - 4.0) / (4.0 - 2.0)]
    torch.testing.assert_close(dlr_loss(logits, batch), torch.tensor(expected))
    torch.testing.assert_close(dlr_loss(7 * logits - 5, batch), torch.tensor(expected))


def test_checkpoints_are_the_published_ones():
    assert list(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(checkpoints(5)) == [2, 3, 3, 4, 4, 5, 5, 5]


def apgd_by_hand(f, start, radius, steps, norm):
    """All iterates of Algorithm 1 of Croce and Hein (2020) for one example, in the paper's indices, in float64, and how often
    it halved its steps."""

    def project(x):
        return x.clamp(-radius, radius) if norm == "linf" else x * min(1.0, radius / max(float(x.norm()), 1e-300))

    def value_and_step(x):
        x = x.clone().requires_grad_()
        value = f(x)
        (g,) = torch.autograd.grad(value, x)
        return value.item(), g.sign() if norm == "linf" else g / g.norm()

    p, w = [0.0, 0.22], []
    while p[-1] <= 1:
        w.append(math.ceil(round(p[-1] * steps, 9)))
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    eta, x, value, halvings = 2 * radius, {0: start}, {}, 0
    value[0], step = value_and_step(start)
    best, top, last = start, value[0], 0
    eta_at, top_at = {0: eta}, {0: top}
    x[1] = project(x[0] + eta * step)
    seen = [x[0], x[1]]
    for k in range(1, steps):
        value[k], step = value_and_step(x[k])
        rises = sum(value[i + 1] > value[i] for i in range(last, k))
        if value[k] > top:
            best, top = x[k], value[k]
        if k in w:
            eta_at[k], top_at[k] = eta, top
            if rises < 0.75 * (k - last) or (eta_at[last] == eta_at[k] and top_at[last] == top_at[k]):
                eta, x[k], value[k], halvings = eta / 2, best, top, halvings + 1
                _, step = value_and_step(best)
            last = k
        z = project(x[k] + eta * step)
        x[k + 1] = project(x[k] + 0.75 * (z - x[k]) + 0.25 * (x[k] - x[k - 1]))
        seen.append(x[k + 1])
    return seen, halvings


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_apgd_takes_the_steps_of_its_algorithm(norm):
    model, labels = curved()
    seen, attack, radius, steps = [], GradientAttack(Ball(norm), 25, 2.0, "margin", "apgd"), 2.0, 25
    begin = starts(attack.ball)[0].double()

    def watched(delta):
        seen.append(delta.detach())
        return model(delta)

    attack.worst_in_ball(watched, batch_of(labels), begin, radius, CLASSIFICATION)
    assert len(seen) == steps + 1
    halvings = []
    for row, label in enumerate(labels):
        others = [c for c in range(3) if c != label]

        def margin(x, row=row, label=label, others=others):
            z = model(torch.cat([begin[:row], x[None], begin[row + 1 :]]))[row]
            return z[others].max() - z[label]

        expected, count = apgd_by_hand(margin, radius * begin[row], radius, steps, norm)
        torch.testing.assert_close(torch.stack([one[row] for one in seen]), torch.stack(expected), atol=1e-5, rtol=0)
        halvings.append(count)
    assert len(set(halvings)) > 1, "each example halves its own steps"


EVERY = list(product(("linf", "l2"), ("example", "token"), ("task", "margin", "dlr"), ("fixed", "apgd"), (1, 3)))


@pytest.mark.parametrize(("norm", "of", "loss", "schedule", "restarts"), EVERY)
def test_accuracy_never_rises_with_the_radius_and_more_starts_never_raise_it(norm, of, loss, schedule, restarts):
    options = AttackOptions(norm=norm, ball=of, loss=loss, schedule=schedule)
    found = curve_of(GradientAttack.of(options), restarts=restarts)
    assert (found.right[:, 1:] <= found.right[:, :-1]).all() and found.right[:, 0].all()
    assert found.right[:, -1].sum() < found.right[:, 0].sum(), "the attack breaks something"
    if restarts > 1:
        once = curve_of(GradientAttack.of(options))
        assert (found.right <= once.right).all()


def test_margin_and_dlr_see_through_a_scale_that_leaves_the_tasks_loss_without_a_gradient():
    broken = {
        loss: int((~curve_of(GradientAttack(Ball("linf"), 8, 0.5, loss), (0.0, 0.6), scale=1e5).right[:, -1]).sum())
        for loss in ("task", "margin", "dlr")
    }
    assert broken["margin"] == broken["dlr"] > broken["task"]


@pytest.mark.parametrize("schedule", ["fixed", "apgd"])
def test_a_question_with_choices_is_attacked_as_if_it_were_alone(schedule):
    """Its choices are texts of their own, with one loss and one length of step."""
    kind = KINDS["multiple_choice"](TaskSpec(name="own", kind="multiple_choice", text=("question",)))
    weights = torch.randn(2, 3, 3, 4, generator=torch.Generator().manual_seed(1))
    attack = GradientAttack(Ball("linf"), 12, 2.0, "margin", schedule)
    begin = attack.ball.start([(0, text) for text in range(6)], MASK, 4)

    def attacked(questions):
        def model(delta):
            shaped = delta.view(len(questions), 3, 3, 4)
            return torch.sin(weights[questions] * shaped * 5).sum((2, 3)) + torch.tensor([0.3, 0.0, -0.2])

        inputs = {"attention_mask": torch.ones(len(questions), 3, 3, dtype=torch.long)}
        batch = MicroBatch(inputs, torch.zeros(len(questions), dtype=torch.long), 0)
        own = begin.view(2, 3, 3, 4)[questions].flatten(0, 1)
        search = spsa(model, batch, attack.ball, [(q, c) for q in questions for c in range(3)], 4, 40, kind)
        return attack.worst_in_ball(model, batch, own, 0.5, kind), search(0.5)

    for both, first, second in zip(attacked([0, 1]), attacked([0]), attacked([1]), strict=True):
        torch.testing.assert_close(both.kept, torch.cat([first.kept, second.kept]))


def test_defaults_are_what_the_attack_was_before_it_had_options():
    assert GradientAttack.of(AttackOptions()) == GradientAttack(Ball("linf", "example"), 5, 0.5, "task", "fixed")
    options = AttackOptions()
    assert (options.restarts, options.checks, options.surrogate) == (1, False, None)
    assert GradientAttack.of(AttackOptions(schedule="apgd")).step_size == 2.0, "as published"


def test_a_loss_that_does_not_fit_the_task_is_refused():
    def told(kind, **options):
        return [problem.key for problem in embedding_attack_problems(AttackOptions(**options), kind)]

    two = kind_of(TASKS["cola"])
    assert told(REGRESSION, loss="margin") == told(REGRESSION, loss="dlr") == told(two, loss="dlr") == ["attack.loss"]
    assert told(two, loss="margin") == told(CLASSIFICATION, loss="dlr") == told(REGRESSION) == []
    assert told(two, checks=True, radii=()) == told(two, checks=True, radii=(0.0,)) == ["attack.checks"]
    assert told(two, surrogate="x") == ["attack.surrogate"]
