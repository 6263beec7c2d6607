"""Attention kernels of a GPU, which run on a card only: how they are called, and that one that is wrong is not used."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from mat_ds.models import kernels, packing
from mat_ds.models.unpadded import remove_padding
from tests.models.test_unpadded import build, passed, ragged

CPU = torch.device("cpu")


class Poisoned(torch.autograd.Function):
    """The first so many tokens of x; the gradients of the others are not numbers."""

    @staticmethod
    def forward(ctx, x, tokens):
        ctx.left = x.shape[1] - tokens
        return x[:, :tokens].clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.cat([gradient, torch.full_like(gradient[:, :1], torch.nan).expand(-1, ctx.left, -1, -1)], 1), None


def text_by_text(kernel, query, key, value, ends, longest, dropout, spare=False):
    """What a kernel has to return, and what it may leave in the gradients of keys that no text has."""
    (of_queries, of_keys), lengths = ends, tuple(int(one.diff().max()) for one in ends)
    assert longest == lengths or (spare and longest[1] > lengths[1] and longest[0] >= lengths[0])
    assert not dropout and of_queries[-1] == query.shape[1]
    key, value = (Poisoned.apply(x, int(of_keys[-1])) for x in (key, value))
    texts = (
        x.transpose(1, 2).tensor_split(cuts[1:-1].long().cpu(), 2)
        for x, cuts in ((query, of_queries), (key, of_keys), (value, of_keys))
    )
    return torch.cat([scaled_dot_product_attention(*text) for text in zip(*texts, strict=True)], 2).transpose(1, 2)


# MPNet adds a bias to the scores, one layer of ModernBERT has a window and Llama's are causal: for those there is no kernel.
CALLS = {"roberta": 2, "mpnet": 0, "nomic_bert": 2, "eurobert": 2, "modernbert": 1, "llama": 0}


@pytest.mark.parametrize("family", CALLS)
@pytest.mark.parametrize("step", [0, 64])
def test_a_kernel_is_asked_for_the_attention_of_each_text(family, step, monkeypatch):
    monkeypatch.setattr(packing, "kernel_for", lambda *_: "efficient")
    calls = []
    monkeypatch.setattr(packing, "variable_length", lambda *given: calls.append(given) or text_by_text(*given, bool(step)))
    model, plain = build(family), build(family)
    remove_padding(model, step)
    torch.testing.assert_close(passed(model, ragged()), passed(plain, ragged()), rtol=1e-9, atol=1e-11)
    assert len(calls) == CALLS[family]


def test_a_kernel_that_is_off_or_missing_is_found_out_before_it_is_used(monkeypatch):
    def off(*given):
        return text_by_text(*given) * 1.02

    def wrong_gradient(*given):
        found = text_by_text(*given)
        return found.detach() + 1.1 * (found - found.detach())

    def not_a_number(*given):
        return text_by_text(*given) * torch.nan

    for kernel, works in ((text_by_text, True), (off, False), (wrong_gradient, False), (not_a_number, False)):
        monkeypatch.setattr(kernels, "variable_length", kernel)
        assert kernels._works("flash", CPU, torch.float32, 8) is works, kernel
    monkeypatch.undo()
    assert not kernels._works("efficient", CPU, torch.float32, 8)  # torch has none for a CPU


@pytest.mark.parametrize("kernel, dtype", [("flash", torch.bfloat16), ("efficient", torch.float32)])
def test_torch_takes_the_calls_and_gives_gradients(kernel, dtype):
    q, k, v = (torch.empty(1, tokens, 2, 8, dtype=dtype, device="meta", requires_grad=True) for tokens in (3, 9, 9))
    ends = tuple(torch.empty(4, dtype=torch.int32, device="meta") for _ in range(2))
    found = kernels.variable_length(kernel, q, k, v, ends, (1, 5), 0.1)
    assert found.shape == q.shape
    gradients = torch.autograd.grad(found.sum(), (q, k, v))
    assert [g.shape for g in gradients] == [q.shape, k.shape, v.shape]


def test_a_cpu_has_none():
    assert kernels.kernel_for(CPU, torch.float32, 8) is None
