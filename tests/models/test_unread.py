"""Weights left in their files equal those that would have been read, for every form of checkpoint."""

import pytest
import torch
from safetensors import safe_open
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    MixtralConfig,
    MixtralForSequenceClassification,
    RobertaModel,
)

from mat_ds.models.build import build_model
from mat_ds.models.options import ModelConfig
from mat_ds.models.unread import value_of, weight_files
from mat_ds.tasks.registry import TASKS
from tests.support.tiny import tiny_roberta


class Pads:
    pad_token_id, model_input_names = 1, ["input_ids", "attention_mask"]


def bert():
    """A BERT encoder saved without the pooler that its classifier needs."""
    shape = {"vocab_size": 64, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40}
    return BertModel(BertConfig(**shape), add_pooling_layer=False)


def gpt2():
    return GPT2ForSequenceClassification(GPT2Config(vocab_size=64, n_embd=24, n_layer=2, n_head=2, num_labels=5))


MODELS = {
    "encoder": lambda: RobertaModel(tiny_roberta().config),
    "no pooler": bert,
    "head for other labels": gpt2,
    "half precision": lambda: RobertaModel(tiny_roberta().config).to(torch.bfloat16),
}


def built(folder, leave_unread, lora=None):
    model = ModelConfig.model_validate({"name": str(folder), "lora": lora})
    return build_model(model, TASKS["mnli"], Pads, seed=3, leave_unread=leave_unread)


@pytest.mark.parametrize("lora", [None, {"r": 2, "modules_to_save": ["0"]}], ids=["whole", "adapters"])
@pytest.mark.parametrize("files", ["one file", "many files"])
@pytest.mark.parametrize("kind", MODELS)
def test_unread_weights_equal_read_ones_and_the_others_are_initialised_alike(kind, files, lora, tmp_path):
    MODELS[kind]().save_pretrained(tmp_path, max_shard_size="10GB" if files == "one file" else "20KB")
    assert (len(weight_files(str(tmp_path))) == 1) == (files == "one file")
    whole, left = built(tmp_path, False, lora), built(tmp_path, True, lora)
    assert not whole.unread and len(left.unread) > 25 and left.fresh == whole.fresh != []
    stand_ins = [p for p in left.module.parameters() if p in left.unread and not any(p.stride())]
    assert len(stand_ins) > 25 and all(p.untyped_storage().nbytes() == 4 for p in stand_ins)
    expected = dict(whole.module.named_parameters())
    for name, parameter in left.module.named_parameters():
        assert torch.equal(value_of(parameter, left.unread), expected.pop(name)), name
        assert parameter.requires_grad == dict(whole.module.named_parameters())[name].requires_grad
    assert not expected
    others = dict(whole.module.named_buffers())
    assert all(torch.equal(buffer, others[name]) for name, buffer in left.module.named_buffers())
    if lora:
        trained = {name for name, p in left.module.named_parameters() if p.requires_grad}
        unwrapped = {n.removeprefix("base_model.model.").replace("modules_to_save.default.", "") for n in trained}
        assert set(left.fresh) <= unwrapped and len(unwrapped - set(left.fresh)) > 12
        assert not any("original_module" in name for name in trained)


def test_a_checkpoint_whose_tensors_are_not_the_models_parameters_is_read_whole(tmp_path):
    """Mixtral's files have one tensor per expert, its layers one parameter for all."""
    shape = {"vocab_size": 64, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = MixtralForSequenceClassification(MixtralConfig(**shape, num_key_value_heads=2, num_local_experts=4, num_labels=3))
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) != set(model.state_dict())
    found = built(tmp_path, True)
    assert not found.unread and not found.fresh
    assert all(torch.equal(p, q) for p, q in zip(found.module.parameters(), model.parameters(), strict=True))


def test_a_checkpoint_without_safetensors_is_read_whole(tmp_path):
    MODELS["encoder"]().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(MODELS["encoder"]().state_dict(), tmp_path / "pytorch_model.bin")
    assert weight_files(str(tmp_path)) == [] and not built(tmp_path, True).unread


@pytest.mark.parametrize("variant", ["dora", "pissa"])
def test_adapters_that_begin_from_the_bases_values_have_them_even_if_weights_may_be_left_unread(variant, tmp_path):
    base = MODELS["encoder"]()
    base.save_pretrained(tmp_path)
    found = built(tmp_path, True, {"r": 2, "variant": variant})
    layer = found.module.get_submodule("base_model.model.roberta.encoder.layer.0.attention.self.query")
    weight = base.get_parameter("encoder.layer.0.attention.self.query.weight").detach()
    if variant == "dora":
        torch.testing.assert_close(layer.lora_magnitude_vector["default"].weight, weight.norm(dim=1))
    else:
        rest = torch.linalg.svdvals(layer.base_layer.weight.double())
        torch.testing.assert_close(rest[:-2], torch.linalg.svdvals(weight.double())[2:], rtol=1e-4, atol=1e-5)
