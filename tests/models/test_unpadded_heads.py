"""Without padding, heads of multiple choice and of span QA give what they give with it."""

import pytest
import torch
from transformers import AutoModelForMultipleChoice, AutoModelForQuestionAnswering

from mat_ds.models.unpadded import remove_padding
from tests.models.test_unpadded import Reads, build, ragged, twice


def choices():
    """Four questions of two choices each."""
    return {name: value.view(4, 2, -1) for name, value in ragged().items()}


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet", "electra", "modernbert"])
def test_choices_are_computed_without_padding_and_the_host_reads_their_mask_once(family):
    model, plain = (build(family, auto=AutoModelForMultipleChoice).eval() for _ in range(2))
    assert remove_padding(model)
    inputs = choices()
    expected = plain(**inputs).logits
    torch.testing.assert_close(model(**inputs).logits, expected, rtol=1e-9, atol=1e-11)
    with Reads() as reads:
        found = model(**twice(inputs)).logits
        model(**inputs)
    torch.testing.assert_close(found, expected.repeat(2, 1), rtol=1e-9, atol=1e-11)
    assert not reads.found


@pytest.mark.parametrize("family", ["bert", "mpnet", "modernbert"])
def test_spans_are_found_without_padding(family):
    model, plain = (build(family, auto=AutoModelForQuestionAnswering, labels=2).eval() for _ in range(2))
    assert remove_padding(model)
    inputs = ragged()
    real = inputs["attention_mask"].bool()
    found, expected = model(**inputs), plain(**inputs)
    for part in ("start_logits", "end_logits"):
        torch.testing.assert_close(found[part][real], expected[part][real], rtol=1e-9, atol=1e-11)
