"""Packed tokens in steps: batches of different lengths have equal shapes, and the spare tokens are nobody's."""

import pytest

from mat_ds.models.unpadded import remove_padding
from tests.models.test_unpadded import build, ragged, twice


@pytest.mark.parametrize("family", ["roberta", "modernbert"])
def test_in_steps_layers_compute_equally_many_tokens_of_batches_of_different_lengths(family):
    model, rows = build(family), set()
    remove_padding(model, 40)
    layers = model.base_model.layers if family == "modernbert" else model.base_model.encoder.layer
    layers[0].register_forward_pre_hook(lambda module, args, inputs: rows.add((args or [inputs["hidden_states"]])[0].shape[1]),
                                        with_kwargs=True)  # fmt: skip
    real = set()
    for seed in (1, 3, 4):
        model(**(inputs := ragged(seed=seed)))
        model(**twice(inputs))
        real.add(int(inputs["attention_mask"].sum()))
    assert real == {57, 61, 65} and rows == {80, 160}
