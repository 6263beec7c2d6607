"""A pass that ends at the first layer has the output of one through the whole model, and its gradient."""

import pytest
import torch
from torch.autograd import grad

from mat_ds.errors import UserError
from mat_ds.methods import METHODS
from mat_ds.models.first_layer import FirstLayer, layer_problems
from mat_ds.models.perturb import EmbeddingPerturbation
from mat_ds.models.recompute import recompute_activations
from mat_ds.models.unpadded import remove_padding
from tests.models import test_unpadded
from tests.support.families import FAMILIES, build
from tests.support.tiny import global_batches, shallow_lora, tiny_roberta

(BATCH,) = global_batches(1)
INPUTS = {name: BATCH[name] for name in ("input_ids", "attention_mask")}
# Where the families have their first layer.
PLACES = {"albert": "encoder.albert_layer_groups.0", "gpt2": "h.0"} | dict.fromkeys(
    ("modernbert", "nomic_bert", "eurobert", "llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"), "layers.0"
)


def compare(model, layer, **tolerance):
    """With h the layer's output and p the loss's gradient there: h, p and d<p, h>/d delta by whole passes are those of
    `FirstLayer`, with the same dropout masks. Returns the last."""
    hook, first, outputs = EmbeddingPerturbation(model), FirstLayer(model), []
    torch.manual_seed(1)
    delta = torch.randn(*INPUTS["input_ids"].shape, hook.width, dtype=model.dtype) * INPUTS["attention_mask"].unsqueeze(-1)
    delta = (0.1 * delta).requires_grad_()

    def loss():
        torch.manual_seed(2)
        with hook.applied(delta):
            return model(**INPUTS).logits.square().sum()

    def see(module, inputs, output):
        outputs.append(output[0] if isinstance(output, tuple) else output)

    with first.kept() as kept:
        whole = loss()
    whole.backward()
    short = first.output_of(loss)
    (found,) = grad(short, delta, kept[0].grad)
    own = layer.register_forward_hook(see)
    whole, h = loss(), outputs[0]
    (p,) = grad(whole, h, retain_graph=True)
    (expected,) = grad(h, delta, p)
    own.remove()
    hook.remove()
    assert expected.abs().amax() > 0
    for one, other in ((kept[0].grad, p), (short, h), (found, expected)):
        torch.testing.assert_close(one, other, **tolerance)
    return expected


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_layer_of_every_family_is_found(family):
    model = build(family).eval()
    compare(model, model.base_model.get_submodule(PLACES.get(family, "encoder.layer.0")))


@pytest.mark.parametrize("family", [*test_unpadded.SETTINGS, *test_unpadded.ROTARY])
def test_without_padding_the_perturbations_gradient_is_that_with_it(family):
    model = test_unpadded.build(family).eval()
    layer = model.base_model.get_submodule(PLACES.get(family, "encoder.layer.0"))
    padded = compare(model, layer)
    assert remove_padding(model)
    test_unpadded.close(compare(model, layer), padded, family)


def test_dropout_adapters_frozen_layers_and_recomputed_activations_change_nothing():
    compare((model := tiny_roberta(dropout=0.1).train()), model.roberta.encoder.layer[0])
    for checkpointing in (False, True):
        model = shallow_lora(checkpointing, num_hidden_layers=2, dropout=0.1).train()
        compare(model, model.get_base_model().roberta.encoder.layer[0])
    model = tiny_roberta(dropout=0.1).train()
    recompute_activations(model)
    compare(model, model.roberta.encoder.layer[0])
    for part in (model.roberta.embeddings, model.roberta.encoder.layer[0]):
        part.requires_grad_(False)
    compare(model, model.roberta.encoder.layer[0])


def test_after_a_pass_nothing_of_it_is_left():
    model = tiny_roberta()
    compare(model, model.roberta.encoder.layer[0])
    assert not model.roberta.encoder.layer[0]._forward_hooks
    model(**INPUTS)


def test_another_number_of_layers_and_a_model_without_are_refused():
    settings = METHODS["yopo"].Settings
    assert not list(layer_problems(tiny_roberta(), "m", settings(layers=2)))
    (problem,) = layer_problems(tiny_roberta(), "m", settings(layers=12))
    assert (problem.key, problem.fix) == ("method.layers", "pass method.layers=2")
    # ALBERT's two layers are one module.
    assert not list(layer_problems(build("albert"), "m", settings(layers=2)))
    assert not list(layer_problems(torch.nn.Linear(1, 1), "m", METHODS["freelb"].Settings()))
    (problem,) = layer_problems(torch.nn.Linear(1, 1), "m", settings())
    assert problem.key == "model.name"
    with pytest.raises(UserError, match="no layer"):
        FirstLayer(torch.nn.Linear(1, 1))
    with pytest.raises(UserError, match="does not go through"):
        FirstLayer(tiny_roberta()).output_of(lambda: None)
