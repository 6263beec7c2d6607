"""Each quantity of calibration against a loop from its definition, the temperature against a grid, cross-fitting by hand."""

import math

import numpy as np
import pytest

from mat_ds.evaluation.calibration import calibrate, curves, fitted_temperature, halves, judged, nll, quality
from mat_ds.tasks.example import Example
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.spec import TaskSpec

RANDOM = np.random.default_rng(1)
THREE = kind_of(TaskSpec(name="three", text=("text",), labels=("a", "b", "c")))
SETS = kind_of(TaskSpec(name="sets", text=("text",), kind="multi_label", labels=("a", "b", "c"), metrics=("f1_micro",)))


def labelled(labels):
    return [Example(("a text",), label) for label in labels]


def drawn(count, truth=1.0):
    """Logits of `count` examples whose labels are drawn from softmax(logits / truth)."""
    logits = 2.5 * RANDOM.normal(size=(count, 3))
    p = np.exp(logits / truth)
    p /= p.sum(1, keepdims=True)
    return logits.astype(np.float32), labelled([int(RANDOM.choice(3, p=row)) for row in p])


def softmax(row):
    exps = [math.exp(z) for z in row]
    return [e / sum(exps) for e in exps]


def test_every_quantity_is_that_of_its_definition():
    kept, examples = drawn(203)
    p = [softmax([float(z) for z in row]) for row in kept]
    y, n = [example.label for example in examples], 203
    sure = [max(row) for row in p]
    right = [row.index(max(row)) == label for row, label in zip(p, y, strict=True)]
    brier = [sum((q - (c == label)) ** 2 for c, q in enumerate(row)) for row, label in zip(p, y, strict=True)]
    ece = 0.0
    for b in range(15):
        here = [i for i in range(n) if b / 15 < sure[i] <= (b + 1) / 15]
        if here:
            ece += abs(sum(right[i] for i in here) - sum(sure[i] for i in here)) / n
    order, adaptive, begin = sorted(range(n), key=lambda i: sure[i]), 0.0, 0
    for b in range(15):
        here = order[begin : begin + 13 + (b < 203 - 15 * 13)]
        begin += len(here)
        adaptive += abs(sum(right[i] for i in here) - sum(sure[i] for i in here)) / n
    risks = [sum(not right[i] for i in order[-k:]) / k for k in range(1, n + 1)]
    found = judged(THREE, kept, examples)
    assert quality(found) == pytest.approx({
        "nll": sum(-math.log(row[label]) for row, label in zip(p, y, strict=True)) / n, "brier": sum(brier) / n, "ece": ece,
        "ece_adaptive": adaptive, "aurc": sum(risks) / n,
    }, rel=1e-9)  # fmt: skip
    drawn_curves = curves(found)
    assert sum(point["share"] for point in drawn_curves["reliability"]) == pytest.approx(1.0)
    gap = sum(point["share"] * abs(point["accuracy"] - point["confidence"]) for point in drawn_curves["reliability"])
    assert gap == pytest.approx(ece)
    assert drawn_curves["risk_coverage"][9] == {"coverage": 0.5, "risk": pytest.approx(risks[round(0.5 * n) - 1])}
    assert drawn_curves["risk_coverage"][-1]["risk"] == pytest.approx(1 - sum(right) / n)


def test_equally_confident_answers_count_in_any_order():
    """With one confidence for all, who abstains abstains at random: the risk is the error, at every coverage."""
    kept = np.tile([2.0, 0.0, 0.0], (8, 1)).astype(np.float32)
    for labels in ([0] * 6 + [1] * 2, [1] * 2 + [0] * 6):
        found = quality(judged(THREE, kept, labelled(labels)))
        assert found["aurc"] == pytest.approx(0.25)
        assert found["ece"] == pytest.approx(abs(0.75 - softmax([2, 0, 0])[0]))


def test_the_temperature_is_that_of_a_grid_and_near_the_one_the_labels_came_from():
    kept, examples = drawn(4000, truth=2.0)
    found = fitted_temperature(THREE, [(kept[:1000], examples[:1000]), (kept[1000:], examples[1000:])])
    grid = np.exp(np.linspace(math.log(0.1), math.log(10), 2001))
    best = min(grid, key=lambda t: nll(judged(THREE, kept, examples, t)))
    assert found == pytest.approx(best, rel=0.003) and found == pytest.approx(2.0, rel=0.1)


def test_a_fitted_temperature_is_judged_by_examples_it_was_not_fitted_to():
    kept, examples = drawn(3000, truth=2.0)
    found = calibrate(THREE, {"validation": (kept, examples)})
    before, after = (found["splits"]["validation"][when] for when in ("before", "after"))
    assert after["nll"] < before["nll"] and after["brier"] < before["brier"] and after["ece"] < 0.3 * before["ece"]
    one, other = halves("validation", 3000)
    assert sorted([*one, *other]) == list(range(3000)) and len(one) == 1500 and sorted(one) != list(range(1500))
    t_one, t_other = (fitted_temperature(THREE, [(kept[rows], [examples[i] for i in rows])]) for rows in (one, other))
    assert found["temperatures_of_halves"] == [pytest.approx(t_one), pytest.approx(t_other)]
    crossed = [nll(judged(THREE, kept[rows], [examples[i] for i in rows], t)) for rows, t in ((one, t_other), (other, t_one))]
    assert after["nll"] == pytest.approx(sum(crossed) / 2, rel=1e-9)
    assert found["temperature"] == pytest.approx(fitted_temperature(THREE, [(kept, examples)]))


def test_decisions_of_their_own_count_one_by_one():
    kept = RANDOM.normal(size=(50, 3)).astype(np.float32)
    labels = [tuple(np.flatnonzero(row)) for row in RANDOM.integers(0, 2, (50, 3))]
    terms = []
    for row, label in zip(kept, labels, strict=True):
        for c, z in enumerate(row):
            p = 1 / (1 + math.exp(-float(z) / 2))
            terms.append((-math.log(p if c in label else 1 - p), 2 * ((c in label) - p) ** 2))
    found = quality(judged(SETS, kept, labelled(labels), 2.0))
    assert (found["nll"], found["brier"]) == pytest.approx(tuple(np.mean(terms, axis=0)))


def test_confident_models_and_few_examples_break_nothing():
    kept = np.array([[90.0, -90.0, 0.0], [90.0, -90.0, 0.0]], np.float32)
    found = calibrate(THREE, {"validation": (kept, labelled([0, 1]))})
    assert all(math.isfinite(value) for when in ("before", "after") for value in found["splits"]["validation"][when].values())
    assert found["temperature"] == pytest.approx(10.0, rel=1e-3)  # as unsure as it may be
    assert found["splits"]["validation"]["before"]["nll"] == pytest.approx(90.0)


def test_questions_with_fewer_choices_have_no_probability_for_those_they_lack():
    kind = kind_of(TaskSpec(name="choice", kind="multiple_choice", text=("question",)))
    examples = [Example(("Why?", "a", "b", "c"), 2), Example(("How?", "a", "b"), 0)]
    kept = np.array([[0.5, -1.0, 2.0], [1.0, 0.0, -6e4]], np.float32)
    rows = [softmax([z / 4 for z in (0.5, -1.0, 2.0)]), softmax([0.25, 0.0])]
    found = judged(kind, kept, examples, 4.0)
    assert found.p[1, 2] == 0.0 and found.p[0] == pytest.approx(rows[0])
    assert nll(found) == pytest.approx(-(math.log(rows[0][2]) + math.log(rows[1][0])) / 2)
