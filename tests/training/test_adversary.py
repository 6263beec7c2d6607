"""Warnings before training: steps that do not move the perturbation, passes without effect, radii lost in TF32."""

import math

import pytest
import torch

from mat_ds.config.packaged import RECIPES
from mat_ds.methods import METHODS, ops
from mat_ds.methods.moves import Moves
from mat_ds.runs.load import load_run_config
from mat_ds.training.adversary import adversary_lines, hidden_by_tf32, objections, tf32, uses_tf32
from tests.support.kinds import CLASSIFICATION
from tests.support.plain_engine import PlainEngine
from tests.support.small_engine import one_rank
from tests.support.tiny import global_batches, micro_batches, tiny_roberta

(BATCH,) = micro_batches(global_batches(1)[0], 8)
OBJECTIVE = CLASSIFICATION


class AskedEngine(PlainEngine):
    """A `PlainEngine` with what the checks ask for besides, in fp32 on a CPU."""

    device, dtype = torch.device("cpu"), torch.float32

    @torch.no_grad()
    def realised(self, batch, delta):
        with self.perturbation.recorded() as seen:
            self.probe(batch, None, delta)
        return seen


@pytest.fixture(scope="module", autouse=True)
def alone():
    with one_rank():
        yield


def build(name, **settings):
    method = METHODS[name]
    return method(method.Settings(**settings), OBJECTIVE)


def found(name, model_dropout=0.0, **settings):
    """The keys of the warnings for a method on a model."""
    player, engine = build(name, **settings), AskedEngine(tiny_roberta(dropout=model_dropout))
    problems = objections(engine, player, BATCH)
    assert all(problem.reason and problem.fix for problem in problems)
    return [problem.key for problem in problems]


@pytest.mark.parametrize("name", METHODS)
def test_with_published_settings_every_perturbation_moves(name):
    moves = Moves()
    build(name).adversary(AskedEngine(tiny_roberta()), BATCH, moves)
    measured = moves()
    assert bool(measured) == (name not in ("vanilla", "rdrop", "neftune", "r3f", "r4f", "sam"))
    assert measured.get("delta_moved", 1.0) > 0.5


@pytest.mark.parametrize("name", ["smart", "alum", "salt", "mat"])
def test_a_virtual_adversary_improves_on_its_random_start(name):
    """By the divergence per squared length, which depends only on the direction."""
    engine = AskedEngine(tiny_roberta())

    def reached(player):
        delta = player.adversary(engine, BATCH).detach()
        r = OBJECTIVE.divergence(*(engine.probe(BATCH, None, part).double() for part in (None, 1e3 * delta)), BATCH)
        return (r / ops.l2(1e3 * delta).flatten().square()).mean().item(), delta

    (ascended, delta), (random, start) = reached(build(name)), reached(build(name, delta_lr=0.0))
    assert ascended > 2 * random
    assert torch.cosine_similarity(delta.flatten(), start.flatten(), 0) < 0.9


@pytest.mark.parametrize(
    "name, settings",
    [
        ("salt", {"delta_gradient": "raw"}),
        ("mat", {"delta_gradient": "raw", "dropout": "off"}),
        ("freelb", {"delta_lr": 1e-5}),
        ("pgd", {"delta_lr": 1e-4}),
        ("freeat", {"delta_lr": 1e-5}),
        ("smart", {"delta_lr": 1e-9}),
        ("alum", {"delta_lr": 0.0}),
    ],
)
def test_steps_that_do_not_move_the_perturbation_are_named(name, settings):
    assert found(name, **settings) == ["method.delta_lr"]


@pytest.mark.parametrize("name, dropout, settings, keys", [
    *((name, dropout, {}, []) for name in METHODS for dropout in (0.0, 0.1) if (name, dropout) != ("rdrop", 0.0)),
    ("rdrop", 0.0, {}, ["method.name"]), ("rdrop", 0.1, {"alpha": 0.0}, ["method.alpha"]),
    ("r3f", 0.0, {"noise_scale": 0.0}, ["method.name"]), ("r3f", 0.1, {"noise_scale": 0.0}, []),
    ("r4f", 0.0, {"noise_scale": 0.0}, ["method.name"]), ("r3f", 0.1, {"lam": 0.0}, ["method.lam"]),
    ("smart", 0.1, {"lam": 0.0}, ["method.lam"]), ("alum", 0.0, {"lam": 0.0}, ["method.lam"]),
    ("salt", 0.0, {"lam": 0.0}, ["method.lam"]), ("mat", 0.0, {"lam": 0.0}, []),
    ("mat", 0.0, {"delta_steps": 0, "delta_init": "zero"}, ["method.name"]),
    ("mat", 0.1, {"delta_steps": 0, "delta_init": "zero"}, []),
    ("mat", 0.1, {"delta_steps": 0, "delta_init": "zero", "theta_dropout": "frozen"}, ["method.name"]),
    ("mat", 0.0, {"delta_init": "zero", "delta_noise": 0.0}, ["method.name"]),
    ("mat", 0.1, {"delta_init_scale": 0.0, "delta_noise": 0.0}, []),
    ("neftune", 0.0, {"alpha": 0.0}, ["method.name"]),
    ("freelb", 0.1, {"delta_init_norm": 0.0, "delta_lr": 0.0}, ["method.name"]),
    ("pgd", 0.0, {"delta_init_norm": 0.0, "delta_lr": 0.0}, ["method.name"]),
])  # fmt: skip
def test_only_passes_without_effect_are_named(name, dropout, settings, keys):
    assert found(name, dropout, **settings) == keys


def test_tf32_rounds_to_the_nearest_number_with_ten_bits():
    x = torch.randn(10_000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-20, 20, 10_000)
    x = torch.cat([x, torch.tensor([0.0, 1.0, 1 + 2**-11, 1 + 3 * 2**-11, -(1 + 2**-11), 1 + 2**-11 + 2**-20])])
    unit = torch.exp2(torch.floor(torch.log2(x.double().abs().clamp(min=1e-300))) - 10)
    assert torch.equal(tf32(x).double(), (x.double() / unit).round() * unit)  # ties to even


@pytest.mark.parametrize("radius, hidden", [(1e-6, True), (1e-5, True), (1e-4, False), (1e-2, False)])
def test_a_radius_below_tf32s_resolution_is_named_with_one_that_works(radius, hidden):
    generator = torch.Generator().manual_seed(0)
    x = 0.042 * torch.randn(4, 9, 128, generator=generator)
    delta, mask = radius * torch.randn(x.shape, generator=generator), torch.ones(4, 9, 1)
    problems = list(hidden_by_tf32(x, delta, mask))
    assert len(problems) == hidden
    for problem in problems:
        factor = float(problem.fix.split("radius ")[1].split(" times")[0])
        assert not list(hidden_by_tf32(x, factor * 1.05 * delta, mask))
        assert 10**0.25 <= factor <= 1e-4 / radius * 2


@pytest.mark.parametrize(
    "capability, precision, forced, expected",
    [
        ((8, 0), "tf32", None, True),
        ((8, 6), "tf32", None, True),
        ((9, 0), "ieee", None, False),
        ((7, 0), "tf32", None, False),
        ((7, 5), "ieee", "1", False),
        ((8, 0), "ieee", "1", True),
        ((8, 0), "tf32", "0", False),
        ((8, 0), "none", None, False),
    ],
)
def test_tf32_is_used_if_the_card_has_it_and_it_is_switched_on(capability, precision, forced, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    if forced:
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", forced)
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = precision
    try:
        assert uses_tf32(torch.device("cuda", 0)) is expected
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert not uses_tf32(torch.device("cpu"))


def test_moves_reports_step_noise_and_projection():
    step, delta = torch.full((2, 1, 4), 0.5), torch.zeros(2, 1, 4)  # of length 1
    moves = Moves()
    moves.add(delta, step, noise=torch.full((2, 1, 4), 1.5), kept=torch.tensor([0.5, 1.0]).view(2, 1, 1))
    moves.add(torch.full((2, 1, 4), 5.0), step)
    parts = {name: float(value) for name, value in moves().items()}
    assert parts == pytest.approx({"delta_moved": (1 + 0.1) / 2, "delta_drift": (0.75 + 1) / 2, "delta_noise": 1.5})


@pytest.mark.parametrize("semantics, low, high", [("paper", 0.02, 0.3), ("released", 3.0, 30.0)])
def test_with_published_settings_noise_is_small_in_paper_and_large_in_released_semantics(semantics, low, high):
    moves, player = Moves(), build("mat", semantics=semantics, dropout="off")
    player.adversary(AskedEngine(tiny_roberta(hidden_size=96, intermediate_size=96)), BATCH, moves)
    parts = moves()
    assert low < float(parts["delta_noise"] / parts["delta_drift"]) < high
    scale = math.sqrt(2 * 1e-3) * 2e-4
    entries = BATCH.mask.sum((1, 2)) * 96
    torch.testing.assert_close(parts["delta_noise"], (scale * entries.sqrt()).mean(), rtol=0.05, atol=0.0)


def told(settings, **measured):
    usual = {"delta_linf": 1e-5, "cosine": 1.0, "R": 2e-2, "R_without": 2e-2, "R_shared_masks": 3e-3, "R_eval": 1e-3}
    return list(adversary_lines(7, {**usual, **measured}, settings))


@pytest.mark.parametrize(
    "settings, measured, shares",
    [
        (METHODS["mat"].Settings(), {"R_without": 5e-3}, "R 2.0e-02: adversary 75%, dropout 25%"),
        (METHODS["mat"].Settings(), {"R_without": 0.0}, "R 2.0e-02: adversary 100%, dropout 0%"),
        (METHODS["mat"].Settings(theta_dropout="frozen"), {}, "R 3.0e-03: adversary 100%, dropout 0%"),
        (METHODS["freelb"].Settings(), {}, "the adversary moves predictions by R 1.0e-03"),
    ],
)
def test_the_line_says_what_the_adversary_does(settings, measured, shares):
    (line,) = told(settings, **measured)
    assert line == f"step 7: {shares}; |delta| 1.0e-05"


@pytest.mark.parametrize(
    "measured, shares",
    [
        ({"R_without": 1.9999e-2}, "adversary under 0.1%, dropout over 99.9%"),
        ({"R_without": 2.1e-2}, "adversary 0%, dropout 100%"),
        ({"R_without": 0.0, "R": 1e-9, "R_eval": 1e-9}, "adversary 100%, dropout 0%"),
    ],
)
def test_an_adversary_without_effect_is_called_so_and_a_recipe_named_that_exists(measured, shares):
    line, verdict = told(METHODS["mat"].Settings(), **measured)
    assert shares in line and "does nothing at this radius" in verdict
    recipe = load_run_config(RECIPES.path(verdict.rpartition("--recipe ")[2]), ())
    assert recipe.method.delta_max_norm >= 1e-3 and recipe.method.divergence.shares_masks
    assert all(len(each) <= 80 for each in (line, verdict))


def test_a_perturbation_that_is_rounded_away_or_not_moved_is_said_in_words():
    _, rounded, unmoved = told(METHODS["mat"].Settings(), R_without=0.0, cosine=0.06, delta_moved=5e-4)
    assert "only 6% of its direction survives" in rounded and "under 0.1% of its size" in unmoved
