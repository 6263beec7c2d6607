"""Checks of the embedding attack: models that hide their gradient are called out, an honest one is not."""

import pytest
import torch
from torch import distributed

from mat_ds.artifacts.evaluated import Robustness
from mat_ds.evaluation.attacks.embedding_measured import EmbeddingAttack, Perturbable, radii_beyond, reach_of
from mat_ds.evaluation.attacks.embedding_options import AttackOptions
from mat_ds.evaluation.attacks.masking import masking_signs
from mat_ds.evaluation.scores import Evaluator
from mat_ds.evaluation.table import masking_lines, masking_rows
from mat_ds.models.perturb import EmbeddingPerturbation
from mat_ds.ranks.world import World
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.registry import TASKS
from tests.support.linear_classifier import Bag, collate, examples

COLA = TASKS["cola"]
FEW = examples(40)
HONEST = {"radius": 0.1, "attack": 0.5, "random": 0.8, "gradient_free": 0.6, "double_steps": 0.495, "zero_gradients": 0.0}


@pytest.fixture(scope="module", autouse=True)
def alone():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def perturbable(model):
    return Perturbable(lambda inputs: model(**inputs).logits, EmbeddingPerturbation(model))


def checked(model, micro=40, surrogate=None, **options):
    """(the attack's curve, what the checks found)"""
    asked = AttackOptions(radii=(0.01, 0.03, 0.1), checks=True, **options)
    evaluator = Evaluator(COLA, collate, micro, World(), torch.device("cpu"))
    other = surrogate and perturbable(surrogate)
    attack = EmbeddingAttack(asked, 0, perturbable(model), other, evaluator, kind_of(COLA), reach_of(model, asked, 8))
    curve = attack.curve(FEW, "dev")
    return curve, attack.checks(curve, FEW, "dev")


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_honest_model_shows_no_sign(norm):
    curve, found = checked(Bag(), norm=norm)
    assert found["signs"] == []
    for i, point in enumerate(found["points"]):
        assert point["attack"] == float(curve.right[:, i + 1].double().mean()) <= min(point["random"], point["gradient_free"])
    assert found["points"][-1]["attack"] < 0.5 and found["everything"]["attack"] <= 0.1


def test_a_softmax_that_is_saturated_is_called_out_and_the_margin_sees_through_it():
    _, found = checked(Bag(scale=1e5))
    told = " ".join(found["signs"])
    assert "without gradients finds more" in told and "is zero" in told
    assert found["points"][-1]["zero_gradients"] > 0.5
    _, through = checked(Bag(scale=1e5), loss="margin")
    assert through["signs"] == [] and through["points"][-1]["attack"] < found["points"][-1]["attack"]


def test_rounded_embeddings_are_called_out_and_so_they_are_by_a_surrogate():
    _, found = checked(Bag(grid=0.01), surrogate=Bag())
    told = " ".join(found["signs"])
    assert "100% of the examples is zero" in told and "without gradients finds more" in told and "the surrogate" in told
    assert [point["transfer"] for point in found["points"]] < [point["attack"] for point in found["points"]]


def test_checks_do_not_depend_on_batches():
    whole, single = checked(Bag(), surrogate=Bag(), restarts=2)[1], checked(Bag(), 7, surrogate=Bag(), restarts=2)[1]
    assert whole == single


def test_each_sign_has_its_rule():
    def told(rises=False, everything=None, examples=1000, **changed):
        return masking_signs([{**HONEST, **changed}], everything, examples, rises)

    assert told() == told(gradient_free=0.495) == told(zero_gradients=0.1) == []
    (double,) = told(double_steps=0.48)
    assert "twice as many steps" in double and "at radius 0.1 it leaves 0.48, the attack 0.5" in double
    assert told(examples=60, double_steps=0.48) == [], "one example of 60 is no sign"
    assert all(len(told(**{name: 0.4})) == 1 for name in ("gradient_free", "random", "transfer"))
    assert len(told(zero_gradients=0.2)) == len(told(everything={"radius": 2.0, "attack": 0.3})) == 1
    assert told(everything={"radius": 2.0, "attack": 0.1}) == []
    losses = {"random": 0.4, "gradient_free": 0.504, "double_steps": 0.5}
    assert told(True, **losses) == [] and len(told(True, **{**losses, "gradient_free": 0.51})) == 1


def test_radii_lead_from_the_largest_to_one_that_holds_everything():
    assert radii_beyond(0.01, 0.5) == [pytest.approx(0.1), 0.5]
    assert radii_beyond(1.0, 0.5) == [] and radii_beyond(0.1, 0.5) == [0.5]


def test_a_table_says_what_each_check_left_and_the_verdict_in_words():
    masking = {"points": [HONEST], "everything": {"radius": 2.0, "attack": 0.3}, "signs": ["30% stay right"]}
    report = {
        "attack": {"norm": "linf"},
        "splits": {"dev": {"masking": masking}, "other": {"masking": {**masking, "signs": []}}},
    }
    head, first, last, *_ = masking_rows(report)
    assert dict(zip(head, first, strict=True))["random"] == 0.8 and first[1] == "linf 0.1"
    assert dict(zip(head, last, strict=True))["attack"] == 0.3
    lines = masking_lines(report)
    assert lines == ["dev: looks like gradient masking", "  30% stay right", "other: no sign of gradient masking"]
    split = {"clean": {"accuracy": 1.0}, "attack": [{"radius": 0.0, "accuracy": 1.0}], "noise": {}, "masking": masking}
    attack = {"norm": "linf", "radii": [0.0], "steps": 5, "step_size": 0.5}
    Robustness.model_validate({"task": "own", "attack": attack, "splits": {"dev": split}})  # which `mat-ds report` reads
    assert masking_rows({"splits": {"dev": {}}}) == masking_lines({"splits": {"dev": {}}}) == []
