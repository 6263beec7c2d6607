"""The radius that telemetry chooses, on a planted model whose answer is known by hand."""

import math
from typing import Literal

import pytest
import torch

from mat_ds.errors import UserError
from mat_ds.methods import METHODS
from mat_ds.methods.base import Method
from mat_ds.methods.settings import AdversarialSettings
from mat_ds.runs.load import load_run_config
from mat_ds.training.radius import measure_point, options_at, radius_problems, smallest, until_found, usual_radii
from tests.support.kinds import CLASSIFICATION, REGRESSION
from tests.support.tiny import global_batches, micro_batches

(BATCH,) = micro_batches(global_batches(1, labels=1)[0], 8)
# A model that answers SLOPE times the mean entry of delta, and NOISE more under other dropout masks.
SLOPE, NOISE = 2.0, 2e-4


class Planted(Method):
    class Settings(AdversarialSettings):
        name: Literal["planted"] = "planted"
        size: float = 1.0

    cost = 3

    def adversary(self, engine, batch, moves=None):
        return torch.full((batch.texts, batch.mask.shape[1], 4), self.settings.size) * batch.mask

    def step(self, engine, batches):
        raise NotImplementedError


class PlantedEngine:
    """All word embeddings are 1, of which bf16 keeps no change below 2^-8 and fp16 none below 2^-11."""

    def __init__(self, noise=NOISE):
        self.noise = noise

    def probe(self, batch, masks, delta=None):
        moved = 0.0 if delta is None else float(delta[delta != 0].mean())
        answer = SLOPE * moved + (self.noise if masks and len(masks) > 1 else 0.0)
        return torch.full((len(batch.labels), 1), answer)

    def realised(self, batch, delta):
        return torch.ones_like(delta), delta


def at(radius, engine=None):
    method = Planted(Planted.Settings(size=radius), REGRESSION)
    return measure_point(engine or PlantedEngine(), method, REGRESSION, [BATCH], radius)


def test_the_smallest_radius_is_where_r_is_three_times_that_of_dropout_and_the_precision_keeps_it():
    edge = math.sqrt(3.0) * NOISE / SLOPE  # (SLOPE r)^2 = 3 NOISE^2
    points = until_found(at)
    for point in points:
        assert point.ratio == pytest.approx((SLOPE * point.radius / NOISE) ** 2, rel=1e-3)
    by_hand = {
        name: next(radius for radius in usual_radii() if radius > max(edge, step))
        for name, step in {"fp32": 0.0, "fp16": 2**-11, "bf16": 2**-8}.items()
    }
    assert smallest(points) == by_hand == {"fp32": 2e-4, "fp16": 5e-4, "bf16": 5e-3}
    assert points[-1].radius == 1e-2 and points[0].radius == 1e-5 and points[0].flips is None
    assert not points[3].serves("fp32") and points[3].ratio < 3.0 < points[4].ratio


def test_no_radius_is_named_if_none_serves():
    assert smallest([at(1e-5)]) == {"fp32": None, "fp16": None, "bf16": None}


def test_a_model_without_dropout_is_refused():
    with pytest.raises(UserError, match="no dropout"):
        at(1e-3, PlantedEngine(noise=0.0))


class Flipping(PlantedEngine):
    """Says class 0; with a delta, class 1 to the first half of the samples."""

    def probe(self, batch, masks, delta=None):
        logits = super().probe(batch, masks, delta) * torch.tensor([0.0, 1.0, 0.0]) + torch.tensor([1.0, 0.0, 0.0])
        if delta is not None:
            logits[: len(logits) // 2, 1] = 2.0
        return logits


def test_flips_are_the_share_of_answers_that_become_right_or_wrong():
    (batch,) = micro_batches(global_batches(1)[0], 8)
    batch.labels[:] = torch.tensor([0, 1, 2, 0, 0, 1, 2, 0])  # of the first four, 2 is wrong before and after
    point = measure_point(Flipping(), Planted(Planted.Settings(size=0.1), CLASSIFICATION), CLASSIFICATION, [batch], 0.1)
    assert point.flips == 3 / 8


def test_the_line_to_copy_has_every_option_that_is_not_the_usual_one():
    settings = METHODS["mat"].Settings(dropout="off", delta_steps=2, delta_beta=0.0)
    line = options_at(settings, 2e-3)
    run = load_run_config(None, line.split())
    assert run.method == settings.at_radius(2e-3)
    assert (run.method.delta_max_norm, run.method.delta_lr) == (2e-3, 0.2)


@pytest.mark.parametrize("name, settings, key", [
    ("vanilla", {}, "method.name"), ("rdrop", {}, "method.name"), ("mat", {"lam": 0.0}, "method.name"),
    ("r3f", {"noise_scale": 0.0}, "method.noise_scale"),
])  # fmt: skip
def test_a_method_without_a_radius_is_refused_with_those_that_have_one(name, settings, key):
    (problem,) = radius_problems(METHODS[name].Settings(**settings))
    assert problem.key == key and (key != "method.name" or "freelb, mat, neftune" in problem.fix)
