"""On a GPU: an encoder without padding is the one with padding, by whichever kernels the card has."""

import pytest
import torch

from mat_ds.models.kernels import kernel_for
from mat_ds.models.unpadded import remove_padding
from tests.models.test_unpadded import SETTINGS, build, passed, ragged

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU here")]
FAR = {torch.float32: 2e-2, torch.bfloat16: 0.15, torch.float16: 5e-2}


def far(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def test_a_card_has_a_kernel():
    device = torch.device("cuda", 0)
    ampere = torch.cuda.get_device_capability() >= (8, 0)
    assert kernel_for(device, torch.float32, 64) == "efficient"
    assert kernel_for(device, torch.float16, 64) == ("flash" if ampere else "efficient")


@pytest.mark.parametrize("family", [*SETTINGS, "modernbert", "nomic_bert", "eurobert", "llama"])
@pytest.mark.parametrize("dtype", FAR)
def test_logits_and_gradients_are_those_of_the_padded_model(family, dtype):
    model, plain = (build(family, dtype=torch.float32).to("cuda", dtype) for _ in range(2))
    remove_padding(model)
    inputs = {name: value.cuda() for name, value in ragged().items()}
    found, expected = passed(model, inputs), passed(plain, inputs)
    assert far(found[0], expected[0]) < FAR[dtype] and far(found[1], expected[1]) < FAR[dtype]


def test_dropout_is_that_of_the_seed():
    model = build("roberta", dropout=0.2, dtype=torch.float32).cuda()
    remove_padding(model)
    inputs = {name: value.cuda() for name, value in ragged().items()}
    first, again, other = (passed(model, inputs, seed)[0] for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
