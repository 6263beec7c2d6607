"""The options that a method calls its radius scale the perturbation, and it as a whole."""

import pytest
import torch

from mat_ds.methods import METHODS, ops
from tests.support.kinds import CLASSIFICATION
from tests.support.plain_engine import PlainEngine
from tests.support.tiny import global_batches, micro_batches, tiny_roberta

(BATCH,) = micro_batches(global_batches(1)[0], 8)
# At these radii R is quadratic in delta, and the loss nearly linear.
SETTINGS = {
    **{name: {} for name, method in METHODS.items() if method.Settings().radius_powers},
    "mat released": {"semantics": "released", "dropout": "off"},
    "mat noisy": {"delta_noise": 1e-2, "dropout": "off", "delta_max_norm": 1e-3, "delta_init_scale": 1e-3},
    "mat raw": {"delta_gradient": "raw", "delta_lr": 1.0, "delta_noise": 1e-6, "dropout": "off"},
    "salt raw": {"delta_gradient": "raw", "delta_lr": 1.0},
    "freelb unbounded": {"delta_max_norm": 0.0, "delta_init_norm": 0.05, "delta_lr": 0.03},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_whole_perturbation_grows_with_the_radius(name):
    method = METHODS[name.split()[0]]
    engine = PlainEngine(tiny_roberta())

    def found(settings):
        return method(settings, CLASSIFICATION).adversary(engine, BATCH).detach()

    settings = method.Settings(**SETTINGS[name])
    radius = 1e-3 if name.split()[0] in ("freelb", "pgd", "freeat", "neftune") else 1e-4
    small, large = found(settings.at_radius(radius)), found(settings.at_radius(2 * radius))
    torch.testing.assert_close(ops.l2(large), 2 * ops.l2(small), rtol=2e-2, atol=0.0)
    assert torch.cosine_similarity(large.flatten(), small.flatten(), 0) > 0.95


def test_every_method_that_perturbs_has_a_radius():
    assert {name for name, method in METHODS.items() if method.Settings().radius_powers} == {
        name for name, method in METHODS.items() if method.perturbs()
    }


@pytest.mark.parametrize("name, settings", [("vanilla", {}), ("neftune", {"alpha": 0.0}), ("mat", {"lam": 0.0})])
def test_where_there_is_no_radius_nothing_is_scaled(name, settings):
    with pytest.raises(ValueError, match="no radius"):
        METHODS[name].Settings(**settings).at_radius(1e-3)
