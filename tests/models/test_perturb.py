"""The embedding hook against `inputs_embeds`, and that padding gets no perturbation."""

import pytest
import torch

from mat_ds.models.perturb import EmbeddingPerturbation
from tests.equivalence.oracle import logits_of
from tests.support.tiny import global_batches, tiny_roberta


@pytest.mark.parametrize("left_padding", [False, True])
def test_the_hook_adds_delta_to_the_word_embeddings(left_padding):
    model = tiny_roberta().eval()
    (batch,) = global_batches(1, left_padding=left_padding)
    hook = EmbeddingPerturbation(model)
    delta = 0.1 * torch.randn(*batch["input_ids"].shape, hook.width) * batch["attention_mask"].unsqueeze(-1)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with hook.applied(delta):
        perturbed = model(**inputs).logits
    torch.testing.assert_close(perturbed, logits_of(model, batch, delta))
    torch.testing.assert_close(model(**inputs).logits, logits_of(model, batch))
    assert not torch.allclose(perturbed, model(**inputs).logits)


def test_only_real_tokens_have_a_gradient():
    model = tiny_roberta().eval()
    (batch,) = global_batches(1)
    hook = EmbeddingPerturbation(model)
    delta = (1e-2 * torch.randn(*batch["input_ids"].shape, hook.width)).requires_grad_()
    with hook.applied(delta):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    (gradient,) = torch.autograd.grad(logits.square().sum(), delta)
    per_token = gradient.abs().sum(-1)
    assert (per_token[batch["attention_mask"] == 0] == 0).all()
    assert (per_token[batch["attention_mask"] == 1] > 0).all()


def test_delta_stays_fp32_under_half_precision_embeddings():
    model = tiny_roberta().eval().bfloat16()
    (batch,) = global_batches(1)
    hook = EmbeddingPerturbation(model)
    delta = torch.zeros(*batch["input_ids"].shape, hook.width, requires_grad=True)
    with hook.applied(delta):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    (gradient,) = torch.autograd.grad(logits.float().sum(), delta)
    assert logits.dtype == torch.bfloat16 and gradient.dtype == torch.float32


def test_the_hook_is_off_again_after_an_error():
    model, (batch,) = tiny_roberta().eval(), global_batches(1)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    before, hook = model(**inputs).logits, EmbeddingPerturbation(model)
    with pytest.raises(ZeroDivisionError), hook.applied(torch.ones(*batch["input_ids"].shape, hook.width)):
        assert not torch.equal(model(**inputs).logits, before)
        raise ZeroDivisionError
    assert torch.equal(model(**inputs).logits, before)
