"""The depth of every parameter is found in every family, and step sizes fall with it."""

import re

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from mat_ds.models.depth import depths, step_size_problems, step_sizes
from mat_ds.sampling.options import OptimizerConfig
from tests.support.families import FAMILIES, build
from tests.support.tiny import shallow_lora, tiny_roberta

# For each family, how names of parameters begin: what comes before the layers, the layers, and the head.
NAMES = {
    "bert": ("bert.embeddings", "bert.encoder.layer", "classifier"),
    "roberta": ("roberta.embeddings", "roberta.encoder.layer", "classifier"),
    "xlm-roberta": ("roberta.embeddings", "roberta.encoder.layer", "classifier"),
    "electra": ("electra.embeddings", "electra.encoder.layer", "classifier"),
    "albert": ("albert.embeddings albert.encoder.embedding_hidden", "albert.encoder.albert_layer_groups", "classifier"),
    "deberta-v2": ("deberta.embeddings", "deberta.encoder.layer", "pooler classifier"),
    "deberta-v3": ("deberta.embeddings deberta.encoder.rel_embeddings", "deberta.encoder.layer", "pooler classifier"),
    "gpt2": ("transformer.wte transformer.wpe", "transformer.h", "score"),
    "llama": ("model.embed_tokens", "model.layers", "score"),
    "qwen2": ("model.embed_tokens", "model.layers", "score"),
    "qwen3": ("model.embed_tokens", "model.layers", "score"),
    "gemma": ("model.embed_tokens", "model.layers", "score"),
    "gemma2": ("model.embed_tokens", "model.layers", "score"),
    "gemma3_text": ("model.embed_tokens", "model.layers", "score"),
    "mpnet": ("mpnet.embeddings mpnet.encoder.relative", "mpnet.encoder.layer", "classifier"),
    "modernbert": ("model.embeddings", "model.layers", "head classifier"),
    "nomic_bert": ("nomic_bert.embeddings", "nomic_bert.layers", "classifier"),
    "eurobert": ("model.embed_tokens", "model.layers", "dense classifier"),
}
# One with two layers of another family, an encoder-decoder and one whose layers are spread over several lists.
OTHERS = {
    "bart": {
        "d_model": 8, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
        "encoder_ffn_dim": 8, "decoder_ffn_dim": 8},
    "xlm": {"emb_dim": 8, "n_layers": 2, "n_heads": 2},
    "mpnet": {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8},
}  # fmt: skip
WORDS = {
    "bart": {"shared": 0, "encoder.layernorm_embedding": 0, "decoder.embed_positions": 0, "encoder.layers.0": 1,
             "encoder.layers.1": 2, "decoder.layers.0": 3, "classification_head": 4},
    "xlm": {"embeddings": 0, "layer_norm_emb": 0, "attentions.0": 1, "layer_norm1.0": 1, "ffns.1": 2, "layer_norm2.1": 2,
            "sequence_summary": 3},
    "mpnet": {"embeddings": 0, "relative_attention_bias": 0, "layer.0.": 1, "layer.1.": 2, "classifier": 3},
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_embeddings_layers_and_a_head(family):
    model, (first, layers, head) = build(family), map(str.split, NAMES[family])
    found = depths(model)
    # ALBERT of two layers has one set of weights for both.
    assert found.layers == (1 if family == "albert" else model.config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        number = re.search(r"\.(\d+)\.", name) if name.startswith(tuple(layers)) else None
        expected = 0 if name.startswith(tuple(first)) else int(number[1]) + 1 if number else found.layers + 1
        assert found.of[parameter] == expected, name
        assert (parameter in found.head) == name.startswith(tuple(head)), name


@pytest.mark.parametrize("kind", OTHERS)
def test_encoder_decoders_and_layers_in_several_lists_are_counted_in_order(kind):
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, vocab_size=9, **OTHERS[kind]))
    found = depths(model)
    for word, depth in WORDS[kind].items():
        named = {found.of[parameter] for name, parameter in model.named_parameters() if word in name}
        assert named == {depth}, word


@pytest.mark.parametrize("build_model", [tiny_roberta, lambda: shallow_lora(num_hidden_layers=2)], ids=["whole", "adapters"])
def test_the_step_size_falls_from_the_head_to_the_embeddings(build_model):
    model = build_model()
    sizes = step_sizes(model, OptimizerConfig(lr=1e-3, layer_decay=0.5, head_lr=4e-3))
    seen = set()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        expected = 4.0
        for depth, word in enumerate(("embeddings", "layer.0.", "layer.1.")):
            if word in name:
                expected = 0.5 ** (3 - depth)
        assert sizes[parameter] == expected, name
        seen.add(expected)
    assert seen == ({0.25, 0.5, 4.0} if hasattr(model, "peft_config") else {0.125, 0.25, 0.5, 4.0})


def test_one_step_size_for_all_asks_for_no_layers():
    plain = torch.nn.Linear(3, 3)
    assert step_sizes(plain, OptimizerConfig()) == {} and not list(step_size_problems(plain, OptimizerConfig()))
    (problem,) = step_size_problems(plain, OptimizerConfig(layer_decay=0.9))
    assert problem.key == "optimizer.layer_decay" and "no list of layers" in problem.reason
    (problem,) = step_size_problems(plain, OptimizerConfig(head_lr=1e-3))
    assert problem.key == "optimizer.head_lr" and "not apart" in problem.reason


def test_a_frozen_head_has_no_step_size_of_its_own():
    model = tiny_roberta()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(("classifier", "spare")))
    (problem,) = step_size_problems(model, OptimizerConfig(head_lr=1e-3))
    assert "is frozen" in problem.reason
