"""The head for masked words of the model that a classifier was fine-tuned from."""

import pytest
import torch
import yaml
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel, GPT2Config, GPT2LMHeadModel

from mat_ds.artifacts.described import base_of
from mat_ds.errors import UserError
from mat_ds.models.pretrained import load_masked

SIZES = dict(vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)


@pytest.mark.parametrize("kind", [BertForMaskedLM, BertModel, BertForSequenceClassification])
def test_a_head_is_loaded_only_where_all_its_weights_are(tmp_path, kind):
    model = kind(BertConfig(**SIZES)).eval()
    model.save_pretrained(tmp_path)
    found = load_masked(str(tmp_path))
    assert (found is not None) == (kind is BertForMaskedLM)
    if found:
        tokens = torch.tensor([[1, 2, 3]])
        assert torch.equal(found(tokens).logits, model(tokens).logits) and not found.training


def test_decoders_have_none_and_what_is_not_at_hand_is_not_fetched(tmp_path, offline):
    GPT2LMHeadModel(GPT2Config(vocab_size=30, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path)
    assert load_masked(str(tmp_path)) is None
    assert load_masked("nobody/has-this-model") is None and load_masked(str(tmp_path / "gone")) is None


def test_a_folder_that_runs_code_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "strange", "auto_map": {"AutoModel": "strange.Model"}}')
    with pytest.raises(UserError, match="code"):
        load_masked(str(tmp_path))


def test_the_base_is_that_of_the_run_or_of_the_adapters(tmp_path):
    (tmp_path / "model").mkdir()
    assert base_of(tmp_path / "model") is None
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"task": "demo", "model": {"name": "some/bert", "revision": "v1"}}))
    assert base_of(tmp_path / "model") == ("some/bert", "v1")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"task": "demo"}))
    assert base_of(tmp_path / "model") is None, "the built-in model was not published"
    (tmp_path / "model" / "adapter_config.json").write_text('{"base_model_name_or_path": "other/bert"}')
    assert base_of(tmp_path / "model") == ("other/bert", None)
