"""Models in the form in which their authors publish them: file names, old options, tokenizers of other families, code."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, GemmaTokenizer

from mat_ds.errors import UserError
from mat_ds.models.build import build_model, build_skeleton, build_tokenizer
from mat_ds.models.options import ModelConfig
from mat_ds.models.perturb import EmbeddingPerturbation
from mat_ds.tasks.loader import Collator
from mat_ds.tasks.registry import TASKS
from mat_ds.tasks.rows import Example
from tests.models.test_vocabulary import published
from tests.support.families import FAMILIES, MODERNBERT, build
from tests.support.kinds import CLASSIFICATION

CPU = torch.device("cpu")
# As in nomic-embed-text-v1.5: options of GPT-2, and classes that come with the model.
NOMIC = {
    "model_type": "nomic_bert", "n_embd": 16, "n_head": 2, "n_layer": 1, "n_inner": 24, "rotary_emb_base": 1000,
    "auto_map": {
        "AutoConfig": "nomic-ai/nomic-bert-2048--configuration_hf_nomic_bert.NomicBertConfig",
        "AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel",
        "AutoModelForMaskedLM": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertForPreTraining",
    },
}  # fmt: skip


def logits_of(model, tokenizer, texts):
    batch, _ = Collator(tokenizer, 16, CLASSIFICATION)([Example((text,), 0) for text in texts], CPU)
    return batch, model.eval()(**batch).logits


def test_deberta_v3_is_trained_from_a_pickle_in_half_precision_and_a_sentencepiece_model(tmp_path):
    options = published(tmp_path / "model", "spm.model").model_copy(update={"dropout": 0.0})
    (tmp_path / "model" / "model.safetensors").unlink()
    # Without a head, with that of its pre-training, and with the options of its time.
    whole = {f"deberta.{name}": value.half() for name, value in build("deberta-v3").deberta.state_dict().items()}
    torch.save({**whole, "mask_predictions.dense.weight": torch.ones(16, 16)}, tmp_path / "model" / "pytorch_model.bin")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config |= {"pos_att_type": "p2c|c2p", "pooler_hidden_act": "gelu", "pooler_dropout": 0}
    del config["architectures"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))

    tokenizer = build_tokenizer(options, ())
    built = build_model(options, TASKS["mnli"], tokenizer, 0)
    assert {name.split(".")[0] for name in built.fresh} == {"classifier", "pooler"}
    for name, value in whole.items():
        assert torch.equal(built.module.get_parameter(name), value.float()), name
    texts = ["the key near the cabinets", "nobody"]
    batch, together = logits_of(built.module, tokenizer, texts)
    torch.testing.assert_close(together, torch.cat([logits_of(built.module, tokenizer, [text])[1] for text in texts]))
    hook = EmbeddingPerturbation(built.module)
    delta = torch.zeros(*batch["input_ids"].shape, hook.width, requires_grad=True)
    with hook.applied(delta):
        (gradient,) = torch.autograd.grad(built.module(**batch).logits.square().sum(), delta)
    assert torch.equal(gradient.abs().sum(-1) > 0, batch["attention_mask"] > 0)


def test_modernbert_with_a_tokenizer_of_gemma_is_mmbert(tmp_path):
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {sign: i for i, sign in enumerate([*special, "▁", *"abcdefghij", "ab"])}
    tokenizer = GemmaTokenizer(vocab=vocabulary, merges=[("a", "b")], cls_token="<bos>", sep_token="<eos>")
    tokenizer.save_pretrained(tmp_path)
    ids = {"bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 1, "sep_token_id": 1, "pad_token_id": 0}
    settings = {**MODERNBERT, "initializer_range": 0.2, "classifier_pooling": "mean"}
    config = AutoConfig.for_model("modernbert", vocab_size=len(vocabulary), num_labels=3, **ids, **settings)
    torch.manual_seed(0)
    plain = AutoModelForSequenceClassification.from_config(config).eval()
    plain.save_pretrained(tmp_path)

    options = ModelConfig(name=str(tmp_path))
    own = build_tokenizer(options, ())
    assert own.padding_side == "right" and own.pad_token_id == 0 and own("ab é")["input_ids"][-2:] == [5 + 0xC3, 5 + 0xA9]
    built = build_model(options, TASKS["mnli"], own, 0)
    assert not built.fresh or set(built.fresh) <= {"classifier.weight", "classifier.bias"}
    plain.load_state_dict(built.module.state_dict())
    texts = ["abc d", "é", "hij ab ab ab"]
    batch, together = logits_of(built.module, own, texts)
    assert batch["attention_mask"].sum(1).unique().numel() > 1
    for text, logits in zip(texts, together, strict=True):
        alone = torch.tensor([own(text)["input_ids"]])
        torch.testing.assert_close(plain(input_ids=alone).logits[0], logits, rtol=1e-4, atol=1e-5)


def test_nomic_bert_with_its_own_code_is_refused_by_name_and_the_converted_one_is_not(tmp_path):
    build("nomic_bert").save_pretrained(tmp_path)
    options = ModelConfig(name=str(tmp_path))
    assert build_skeleton(options, TASKS["mnli"]).get_input_embeddings().embedding_dim == FAMILIES["nomic_bert"][2]
    (tmp_path / "config.json").write_text(json.dumps(NOMIC))
    with pytest.raises(UserError, match=r"needs code of its own.*NomicBertForPreTraining"):
        build_skeleton(options, TASKS["mnli"])
