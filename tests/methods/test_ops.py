"""Tensor operations of the perturbation: projections, normalisation, divergences, also of very small numbers."""

import pytest
import torch
import torch.nn.functional as F

from mat_ds.methods import ops
from mat_ds.methods.batch import MicroBatch
from tests.support.kinds import CLASSIFICATION, REGRESSION


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_divergence_is_the_sum_of_both_kullback_leiblers():
    z, z_adv = normal(5, 3), normal(5, 3, seed=1)
    p, q = z.log_softmax(-1), z_adv.log_softmax(-1)
    both = F.kl_div(q, p, reduction="none", log_target=True) + F.kl_div(p, q, reduction="none", log_target=True)
    torch.testing.assert_close(ops.symmetric_kl(z, z_adv), both.sum(-1))


def test_divergence_is_finite_where_softmax_underflows():
    z = torch.tensor([[120.0, 0.0]], requires_grad=True)
    r = ops.symmetric_kl(z, torch.tensor([[-120.0, 0.0]]))
    r.sum().backward()
    assert r.isfinite().all() and z.grad.isfinite().all()


def test_divergence_of_scores_is_their_squared_difference():
    torch.testing.assert_close(
        REGRESSION.divergence(torch.tensor([[1.0], [2.0]]), torch.tensor([[4.0], [2.0]]), None), torch.tensor([9.0, 0.0])
    )


def test_half_precision_logits_are_compared_in_fp32():
    z, z_adv = normal(4, 2), normal(4, 2, seed=1)
    assert CLASSIFICATION.divergence(z.half(), z_adv.half(), None).dtype == torch.float32
    assert CLASSIFICATION.loss(z.bfloat16(), MicroBatch({}, torch.tensor([0, 1, 1, 0]), 0)).dtype == torch.float32


@pytest.mark.parametrize("kind", ["rescale", "clamp"])
@pytest.mark.parametrize("scale", [1e-12, 1e-5, 1.0, 1e6])
def test_projection_never_exceeds_the_radius(kind, scale):
    delta = scale * normal(50, 7, 9)
    bounded = ops.project(delta, 1e-5, kind)
    assert ops.linf(bounded).max() <= 1e-5
    inside = (ops.linf(delta) <= 1e-5).flatten()
    assert torch.equal(bounded[inside], delta[inside])


def test_rescaling_keeps_the_direction_and_clamping_the_small_entries():
    delta = torch.tensor([[[0.5, -2.0, 1.0]]])
    torch.testing.assert_close(ops.project(delta, 1.0, "rescale"), delta / 2)
    torch.testing.assert_close(ops.project(delta, 1.0, "clamp"), torch.tensor([[[0.5, -1.0, 1.0]]]))


@pytest.mark.parametrize("kind, norm", [("linf", ops.linf), ("l2", ops.l2)])
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12])
def test_a_direction_has_norm_one_however_small_the_gradient(kind, norm, scale):
    direction = ops.normalise(scale * normal(4, 5, 6), kind)
    torch.testing.assert_close(norm(direction), torch.ones(4, 1, 1))


@pytest.mark.parametrize("kind", ["linf", "l2", "sign", "raw"])
def test_a_sample_without_a_gradient_takes_no_step(kind):
    g = normal(3, 4, 5)
    g[1] = 0.0
    step = ops.normalise(g, kind)
    assert torch.equal(step[1], torch.zeros(4, 5)) and step.isfinite().all()
    assert (step[[0, 2]] != 0).any()
