"""SALT's step is the derivative of its whole objective F: compared with differences of F, with one graph, and in the method.

Everything but the method is in float64; dropout is off.
"""

import itertools

import pytest
import torch

from mat_ds.methods import METHODS
from tests.equivalence import rivals
from tests.support.drawn import DrawnNoise
from tests.support.kinds import CLASSIFICATION, REGRESSION
from tests.support.plain_engine import PlainEngine
from tests.support.tiny import global_batches, micro_batches, tiny_roberta

SIZES = {"delta_init_scale": 2e-2, "delta_max_norm": 4e-2, "lam": 3.0}
STEPS = {"linf": 5e-2, "l2": 0.5, "raw": 1.0}
# Classes (1: regression), N and Pi.
CASES = [
    *itertools.product((2, 3, 5), ("linf", "l2", "raw"), ("clamp",)),
    *itertools.product((1, 3), ("linf", "l2", "raw"), ("rescale", "l2")),
    (1, "raw", "clamp"),
    (1, "linf", "clamp"),
]


class Game:
    """One batch, its first perturbation, and the settings of oracle and method."""

    def __init__(self, labels, gradient, projection, follower="joint"):
        (self.batch,) = global_batches(1, labels=labels)
        self.labels, self.follower = labels, follower
        radius = 0.4 if projection == "l2" else SIZES["delta_max_norm"]
        self.options = {
            **SIZES,
            "delta_lr": STEPS[gradient],
            "delta_gradient": gradient,
            "delta_projection": projection,
            "delta_max_norm": radius,
        }
        self.settings = rivals.Settings(
            regression=labels == 1,
            delta_init=SIZES["delta_init_scale"],
            delta_max_norm=radius,
            delta_norm=gradient,
            delta_lr=STEPS[gradient],
            projection=projection,
            lam=SIZES["lam"],
            follower=follower,
        )
        drawn = DrawnNoise(self.model(), {"name": "salt"}, [self.batch]).normal(0)
        self.start = SIZES["delta_init_scale"] * rivals.per_sample(lambda d: d, self.batch, drawn)

    def model(self):
        return tiny_roberta(labels=self.labels, attn_implementation="eager").eval()

    def objective(self, model):
        return rivals.salt_objective(model, self.batch, self.settings, self.start)

    def true_gradient(self):
        model = self.model().double()
        self.objective(model).backward()
        return flat(model)

    def gradient(self, derivative):
        method, model = METHODS["salt"], self.model()
        settings = method.Settings(**self.options, derivative=derivative, follower=self.follower)
        objective = REGRESSION if self.labels == 1 else CLASSIFICATION
        method(settings, objective).step(PlainEngine(model), micro_batches(self.batch, 8))
        return flat(model)


def flat(model):
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).double().flatten() for p in model.parameters()])


def far(one, other):
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_oracle_is_the_derivative_of_the_objective(case):
    game = Game(*case)
    gradient, model, size = game.true_gradient(), game.model().double(), 1e-6
    parameters, generator = list(model.parameters()), torch.Generator().manual_seed(0)
    for _ in range(3):
        direction = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
        direction += direction.norm() * gradient / gradient.norm()  # so that rounding does not dominate the slope
        pieces = [d.view_as(p) for d, p in zip(direction.split([p.numel() for p in parameters]), parameters, strict=True)]
        values = []
        for sign in (1, -2):  # to theta + h d, then to theta - h d
            with torch.no_grad():
                for p, piece in zip(parameters, pieces, strict=True):
                    p.add_(piece, alpha=sign * size)
            values.append(game.objective(model).item())
        with torch.no_grad():
            for p, piece in zip(parameters, pieces, strict=True):
                p.add_(piece, alpha=size)
        assert (values[0] - values[1]) / (2 * size) == pytest.approx(float(gradient @ direction), rel=1e-5)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_ignoring_the_followers_reaction_would_be_noticed(case, monkeypatch):
    game, whole = Game(*case), rivals.per_sample
    expected = game.true_gradient()
    monkeypatch.setattr(rivals, "per_sample", lambda f, batch, *tensors: whole(f, batch, *(t.detach() for t in tensors)))
    assert far(game.true_gradient(), expected) > 3e-3


@pytest.mark.parametrize("derivative, tolerance", [("exact", 1e-4), ("finite_difference", 1e-3)])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_methods_step_is_the_derivative(case, derivative, tolerance):
    game = Game(*case)
    assert far(game.gradient(derivative), game.true_gradient()) < tolerance


@pytest.mark.parametrize("derivative, tolerance", [("exact", 1e-4), ("finite_difference", 1e-3)])
@pytest.mark.parametrize("case", [(3, "linf", "clamp"), (5, "raw", "rescale"), (1, "raw", "clamp")], ids=str)
def test_the_released_form_differs(case, derivative, tolerance):
    joint, released = Game(*case), Game(*case, follower="released")
    expected = released.true_gradient()
    assert far(released.gradient(derivative), expected) < tolerance
    assert far(joint.true_gradient(), expected) > 10 * tolerance


def test_with_two_classes_and_a_normalised_step_both_forms_have_one_direction():
    """With two classes all gradients of the divergence are parallel, and the normalised step ignores their length."""
    joint, released = (Game(2, "linf", "clamp", follower).true_gradient() for follower in ("joint", "released"))
    assert torch.cosine_similarity(joint, released, 0) > 0.999
