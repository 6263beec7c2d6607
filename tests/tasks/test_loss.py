"""The loss that a run trains on: its formula, its weights, and what cannot be meant."""

import math

import pytest
import torch

from mat_ds.errors import UserError
from mat_ds.methods.batch import MicroBatch
from mat_ds.runs.load import read_run_config
from mat_ds.runs.options import RunConfig, task_problems
from mat_ds.tasks.example import Example
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.kinds.forms import LossForm
from mat_ds.tasks.loss import LossConfig, trained_loss
from mat_ds.tasks.registry import TASKS
from mat_ds.tasks.spec import TaskSpec
from tests.support.kinds import CLASSIFICATION
from tests.support.weighted import examples_of, objective_of, weighted_batches

NO_YES = TaskSpec(name="own", text=("text",), labels=("no", "yes"))


def config(*overrides):
    return read_run_config(None, [f"loss.{each}" for each in overrides], None)[0].loss


def examples(*labels, weights=None):
    return [Example(("a",), label, weight=(weights or {}).get(i, 1.0)) for i, label in enumerate(labels)]


def refused(call, *arguments):
    with pytest.raises(UserError) as error:
        call(*arguments)
    (problem,) = error.value.problems
    return problem


def test_without_options_and_weights_the_kinds_own_loss_is_trained():
    assert trained_loss(LossConfig(), NO_YES, examples(0, 1)) is None
    assert trained_loss(LossConfig(), TASKS["stsb"], examples(1.5)) is None


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weights", [None, "auto", {"entailment": 1, "neutral": 2.5, "contradiction": 0}])
def test_the_loss_is_the_mean_of_weighted_losses_of_the_formula(smoothing, gamma, weights):
    """sum_i w_i l_i / B, l_i = -sum_c q_c (1 - p_c)^gamma log p_c, in Python's own floats."""
    batches = weighted_batches()
    objective = objective_of(batches, class_weights=weights, label_smoothing=smoothing, focal_gamma=gamma)
    rows = [(example.probabilities, example.weight) for example in examples_of(batches)]
    counts = [math.fsum(q[c] for q, _ in rows) for c in range(3)]
    balanced = [len(rows) / (3 * n) for n in counts]
    a = list(weights.values()) if isinstance(weights, dict) else balanced if weights == "auto" else [1, 1, 1]
    mean_weight = math.fsum(r * sum(x * y for x, y in zip(q, a, strict=True)) for q, r in rows) / len(rows)
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(3)) * 3
    expected = []
    for z, q, r in zip(logits.tolist(), batches[0]["probabilities"].tolist(), batches[0]["weights"].tolist(), strict=True):
        p = [math.exp(x) / math.fsum(map(math.exp, z)) for x in z]
        smooth = [(1 - smoothing) * x + smoothing / 3 for x in q]
        loss = -math.fsum(s * (1 - x) ** gamma * math.log(x) for s, x in zip(smooth, p, strict=True))
        expected.append(r * sum(x * y for x, y in zip(q, a, strict=True)) / mean_weight * loss)
    batch = MicroBatch({}, batches[0]["labels"], 0, batches[0]["weights"], batches[0]["probabilities"])
    assert objective.loss(logits, batch).item() == pytest.approx(math.fsum(expected) / 8, rel=1e-5)


def test_a_certain_label_is_the_probability_one_and_gamma_zero_is_cross_entropy():
    logits, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 2, 1, 0])
    objective = objective_of(weighted_batches(), label_smoothing=0.1)
    hard, soft = MicroBatch({}, labels, 0), MicroBatch({}, labels, 0, None, torch.eye(3)[labels])
    theirs = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1) / objective.mean_weight
    torch.testing.assert_close(objective.loss(logits, hard), theirs)
    assert torch.equal(objective.loss(logits, hard), objective.loss(logits, soft))


@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.0])
def test_a_focal_loss_has_a_derivative_where_the_model_is_certain(gamma):
    logits = torch.tensor([[200.0, 0.0, 0.0], [0.0, 200.0, 0.0]], requires_grad=True)
    objective = objective_of(weighted_batches(), focal_gamma=gamma)
    loss = objective.loss(logits, MicroBatch({}, torch.tensor([0, 0]), 0))
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all() and logits.grad[1].abs().sum() > 0.1 and not logits.grad[0].any()


def test_auto_weighs_every_class_the_same_and_the_mean_weight_is_one():
    objective = trained_loss(LossConfig(class_weights="auto"), NO_YES, examples(0, 0, 0, 1))
    assert objective.form.class_weights == pytest.approx((4 / 6, 4 / 2)) and objective.mean_weight == pytest.approx(1)
    assert objective.description == "class weights no 0.6667, yes 2"


def test_only_the_ratios_of_weights_matter():
    batch, logits = MicroBatch({}, torch.tensor([0, 1]), 0), torch.tensor([[1.0, 2.0], [0.5, -1.0]])
    losses = [
        trained_loss(LossConfig(class_weights={"no": scale, "yes": 3 * scale}), NO_YES, examples(0, 1, 1)).loss(logits, batch)
        for scale in (1, 20)
    ]
    torch.testing.assert_close(*losses)


def test_weights_are_of_the_task_loss_and_not_of_the_divergence():
    objective, batch = (
        objective_of(weighted_batches(), class_weights="auto"),
        MicroBatch({}, torch.tensor([0]), 0, torch.zeros(1)),
    )
    p, q = torch.tensor([[1.0, 0.0, 2.0]]), torch.zeros(1, 3)
    assert torch.equal(objective.divergence(p, q, batch), CLASSIFICATION.divergence(p, q, batch))
    assert objective.loss(p, batch) == 0 and objective.directions == CLASSIFICATION.directions


def test_rows_alone_weigh_in_a_regression():
    spec = TASKS["stsb"].model_copy(update={"weight": "trust"})
    objective = trained_loss(LossConfig(), spec, examples(1.0, 2.0, weights={0: 3.0, 1: 0.0}))
    assert objective.mean_weight == 1.5 and objective.description == "rows weighted by trust"
    batch = MicroBatch({}, torch.tensor([1.0, 2.0]), 0, torch.tensor([3.0, 0.0]))
    assert objective.loss(torch.zeros(2, 1), batch).item() == pytest.approx((3 / 1.5 * 1) / 2)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("weights", [None, "auto", {"a": 1.0, "b": 5.0}])
def test_a_label_of_several_is_weighed_smoothed_and_focused_on_its_own(weights, gamma):
    spec = TaskSpec(name="own", kind="multi_label", text=("text",), labels=("a", "b"), weight="trust", metrics=("accuracy",))
    rows = [Example(("a",), (0,), weight=3.0), Example(("b",), (0, 1), weight=1.0), Example(("c",), (), weight=2.0)]
    objective = trained_loss(LossConfig(class_weights=weights, label_smoothing=0.2, focal_gamma=gamma), spec, rows)
    a = {"auto": (1 / 2, 2 / 1), "None": (1, 1)}.get(str(weights), (1, 5))
    logits = torch.tensor([[1.0, -0.5], [0.3, 2.0]])
    expected = 0.0
    for row, label, weight in zip(logits.tolist(), ({0}, {0, 1}), (3.0, 1.0), strict=True):
        for c, z in enumerate(row):
            p, y = 1 / (1 + math.exp(-z)), 0.9 if c in label else 0.1
            loss = -(a[c] * y * (1 - p) ** gamma * math.log(p) + (1 - y) * p**gamma * math.log(1 - p))
            expected += weight / 2 * loss / 2 / 2
    batch = MicroBatch({}, objective.kind.targets([row.label for row in rows[:2]]), 0, torch.tensor([3.0, 1.0]))
    assert objective.loss(logits, batch).item() == pytest.approx(expected, rel=1e-5)


def test_smoothing_spreads_over_the_choices_that_a_question_has():
    kind = kind_of(TaskSpec(name="own", kind="multiple_choice", text=("question",)))
    mask = torch.tensor([[[1, 1], [1, 1], [1, 0]], [[1, 1], [1, 1], [1, 1]]])  # the first question lacks its third choice
    logits, labels = torch.tensor([[0.5, -1.0, -6e4], [0.3, 0.1, -0.2]]), torch.tensor([0, 2])
    found = kind.trained_losses(logits, MicroBatch({"attention_mask": mask}, labels, 0), LossForm(0.3, 2.0))
    for z, label, loss in zip(([0.5, -1.0], [0.3, 0.1, -0.2]), labels.tolist(), found.tolist(), strict=True):
        p = [math.exp(x) / math.fsum(map(math.exp, z)) for x in z]
        q = [0.7 * (c == label) + 0.3 / len(z) for c in range(len(z))]
        assert loss == pytest.approx(-sum(x * (1 - y) ** 2 * math.log(y) for x, y in zip(q, p, strict=True)), rel=1e-5)


def test_the_classes_of_words_weigh_words_and_samples_weigh_one_on_the_average():
    """Of word t of sample i: l_it = -a_y log p_y / Z, of a sample their mean; auto counts a word as its share of the sample."""
    labels = (("x", "y"), ("y", "y", "y", "x"), ("y",))
    spec = TaskSpec(name="own", kind="token_classification", text=("words",), labels=("x", "y"), metrics=("accuracy",))
    rows = [Example(tuple("ab" * len(row))[: len(row)], tuple("xy".index(label) for label in row)) for row in labels]
    objective = trained_loss(LossConfig(class_weights="auto"), spec, rows)
    shares = [1 / 2 + 1 / 4, 1 / 2 + 3 / 4 + 1]
    assert objective.form.class_weights == pytest.approx([3 / (2 * share) for share in shares])
    assert objective.mean_weight == pytest.approx(1)
    logits = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0))
    places = torch.tensor([[[0, 0], [1, 1], [-1, 0], [-1, 0]], [[0, 1], [1, 1], [2, 1], [3, 0]]])
    expected = 0.0
    for i, row in enumerate(labels[:2]):
        for t, label in enumerate(row):
            z, y = logits[i, t].tolist(), "xy".index(label)
            expected -= 3 / (2 * shares[y]) * (z[y] - math.log(math.fsum(map(math.exp, z)))) / len(row) / 2
    assert objective.loss(logits, MicroBatch({}, places, 0)).item() == pytest.approx(expected, rel=1e-5)


def test_options_that_a_kind_does_not_have_are_refused_by_name():
    run = RunConfig.model_validate({"method": {"name": "vanilla"}, "loss": {"focal_gamma": 2.0, "label_smoothing": 0.1}})
    assert [(problem.key, problem.reason) for problem in task_problems(run, TASKS["stsb"])] == [
        ("loss.label_smoothing", "is not defined for regression"),
        ("loss.focal_gamma", "is not defined for regression"),
    ]
    assert not list(task_problems(run, NO_YES))


@pytest.mark.parametrize(
    "written, said",
    [
        ("{no: 1, yse: 2}", ["'yse' is not one of the labels", "has no weight for yes"]),
        ("{no: 1}", ["has no weight for yes"]),
        ("{no: 1, yes: 2, 1: 3}", ["'yes' is the same label"]),
        ("{no: 0, yes: 0}", ["all weights are zero, so there is nothing to learn"]),
    ],
)
def test_a_map_that_does_not_fit_the_labels_is_refused(written, said):
    assert [problem.reason for problem in config(f"class_weights={written}").problems(NO_YES)] == said


@pytest.mark.parametrize("written", ["class_weights={no: -1, yes: 1}", "class_weights=balanced", "label_smoothing=1",
                                     "focal_gamma=-1", "class_weights={no: .inf, yes: 1}", "class_weights=[1, 2]"])  # fmt: skip
def test_values_out_of_range_are_one_problem_each(written):
    _, (problem,) = read_run_config(None, [f"loss.{written}"], None)
    assert problem.key == f"loss.{written.split('=')[0]}"


def test_labels_that_are_numbers_may_be_written_as_numbers():
    spec = NO_YES.model_copy(update={"labels": ("1", "2")})
    found = config("class_weights={1: 2, 2.0: 6}")
    assert not list(found.problems(spec)) and found.weights_by_class(spec) == [2, 6]
    assert config("class_weights.1=2", "class_weights.2=6") == found


def test_a_class_without_rows_has_no_automatic_weight():
    problem = refused(trained_loss, LossConfig(class_weights="auto"), NO_YES, examples(0, 0))
    assert (problem.key, problem.value) == (
        "loss.class_weights",
        "auto",
    ) and "no training row has the label yes" in problem.reason


def test_weights_that_are_all_zero_are_refused():
    spec = NO_YES.model_copy(update={"weight": "trust"})
    problem = refused(trained_loss, LossConfig(), spec, examples(0, 1, weights={0: 0.0, 1: 0.0}))
    assert problem.key == "task own: weight" and "weight zero" in problem.reason
    problem = refused(trained_loss, LossConfig(class_weights={"no": 0, "yes": 1}), NO_YES, examples(0, 0))
    assert problem.key == "loss.class_weights"


def test_examples_with_probabilities_are_weighed_by_them():
    batches = weighted_batches()
    found = examples_of(batches)
    assert any(0 < max(example.probabilities) < 1 for example in found)
    counts = [math.fsum(example.probabilities[c] for example in found) for c in range(3)]
    objective = objective_of(batches, class_weights="auto")
    assert objective.form.class_weights == pytest.approx([16 / (3 * n) for n in counts]) and objective.soft
