"""The cut into micro-batches changes no perturbation, loss or gradient of any method, without dropout."""

import pytest
import torch

from mat_ds.methods import METHODS
from tests.support import families
from tests.support.kinds import CLASSIFICATION
from tests.support.plain_engine import PlainEngine
from tests.support.tiny import global_batches, micro_batches
from tests.support.weighted import weighted_loss

(BATCH,), WEIGHTED = global_batches(1), weighted_loss()
# Sizes at which the perturbation matters.
BALL = {"delta_lr": 0.4, "delta_init_norm": 0.3, "delta_max_norm": 0.5}
VIRTUAL = {"delta_lr": 5e-2, "delta_init_scale": 2e-2, "delta_max_norm": 4e-2}
SETTINGS = {
    "mat": {**VIRTUAL, "delta_noise": 5e-2, "theta_steps": 2, "delta_steps": 3},
    "mat uniform": {**VIRTUAL, "delta_init": "uniform", "semantics": "released", "delta_noise": 5e-2},
    "freelb": BALL, "freelb linf": {**BALL, "delta_norm": "linf"}, "freeat": BALL, "pgd": BALL, "smart": VIRTUAL,
    "alum": VIRTUAL,
    "salt": {**VIRTUAL, "derivative": "exact"}, "salt differences": {**VIRTUAL, "derivative": "finite_difference"},
    "neftune": {"alpha": 2.0},
    "r3f": {"noise_scale": 0.1}, "r3f normal": {"noise_scale": 0.1, "noise": "normal"}, "r4f": {"noise_scale": 0.1},
    "rdrop": {}, "sam": {}, "vanilla": {}, "awp": BALL,
    "mat weighted": {**VIRTUAL, "theta_steps": 2}, "freelb weighted": BALL, "rdrop weighted": {},
}  # fmt: skip


def player(name):
    method = METHODS[name.split()[0]]
    return method(method.Settings(**SETTINGS[name]), WEIGHTED[1] if name.endswith("weighted") else CLASSIFICATION)


def engine(samples=1):
    model = families.build("gpt2")
    model.set_attn_implementation("eager")
    return PlainEngine(model, samples)


def played(name, micro):
    """(mean losses, gradients) of one outer step without updates."""
    batch = WEIGHTED[0][0] if name.endswith("weighted") else BATCH
    method, batches = player(name), micro_batches(batch, micro)
    own = engine(method.chain.samples)
    means = method.step(own, batches)
    gradients = {n: p.grad / len(batches) for n, p in own.model.named_parameters() if p.grad is not None}
    return means, gradients


@pytest.mark.parametrize("name", SETTINGS)
def test_losses_and_gradients_are_those_of_the_whole_batch(name):
    means, whole = played(name, 8)
    for micro in (1, 2, 4):
        again, parts = played(name, micro)
        assert again.keys() == means.keys() and parts.keys() == whole.keys()
        for key, value in means.items():
            torch.testing.assert_close(again[key], value, rtol=1e-4, atol=1e-6)
        far = sum((parts[n] - p).square().sum() for n, p in whole.items()).sqrt()
        assert far < 2e-3 * sum(p.square().sum() for p in whole.values()).sqrt()


@pytest.mark.parametrize("name", [name for name in SETTINGS if name.split()[0] not in ("rdrop", "sam", "vanilla")])
def test_an_examples_perturbation_depends_on_that_example_only(name):
    perturbations = {}
    for micro in (1, 4, 8):
        for batch in micro_batches(BATCH, micro):
            rows = player(name).adversary(engine(), batch).detach()
            perturbations.update(
                {
                    (micro, int(example)): row[mask.squeeze(1).bool()]
                    for example, row, mask in zip(batch.examples, rows, batch.mask, strict=True)
                }
            )
    for (micro, example), delta in perturbations.items():
        whole = perturbations[8, example]
        assert (delta - whole).norm() < 1e-3 * whole.norm(), (micro, example)
    for example in range(1, 8):  # the others do not change
        tokens = min(len(perturbations[8, 0]), len(perturbations[8, example]))
        one, other = perturbations[8, 0][:tokens].flatten(), perturbations[8, example][:tokens].flatten()
        assert torch.cosine_similarity(one, other, 0).abs() < 0.6
