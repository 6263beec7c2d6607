"""`model.head_dropout` sets the dropout of the classification head, whatever its name in the configuration, and no other."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from mat_ds.errors import UserError
from mat_ds.models.build import build_model, build_skeleton, build_tokenizer
from mat_ds.models.options import ModelConfig
from mat_ds.models.tiny import TINY
from mat_ds.tasks.registry import TASKS
from tests.support.families import BERT, DECODERS, FAMILIES

SMALL = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}
OTHERS = {
    "distilbert": SMALL,
    "flaubert": {"emb_dim": 16, "n_layers": 2, "n_heads": 2},
    "xlnet": {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24},
    "rembert": {**BERT, "input_embedding_size": 8, "output_embedding_size": 8},
}
WITHOUT = ("mpnet", "eurobert", *sorted(DECODERS))
ENCODERS = {**{kind: settings for kind, settings, *_ in FAMILIES.values() if kind not in WITHOUT}, **OTHERS}


def folder(path, kind, settings, **more):
    config = AutoConfig.for_model(kind, vocab_size=50, pad_token_id=1, bos_token_id=0, eos_token_id=2, **settings, **more)
    config.save_pretrained(path)
    return str(path)


def classifier(name, **options):
    """The classifier for the options and the folder's configuration, with random weights."""
    described = build_skeleton(ModelConfig(name=name, **options), TASKS["mnli"]).config
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(described).train()


def passes(model, count=400):
    """Whether two passes over the same inputs differ in the backbone's output, and in the logits."""
    inputs = {"input_ids": torch.full((count, 5), 7), "attention_mask": torch.ones(count, 5, dtype=torch.long)}
    features, logits = [], []
    keep = model.base_model.register_forward_hook(lambda module, args, output: features.append(output[0].detach()))
    with torch.no_grad():
        logits = [model(**inputs).logits for _ in range(2)]
    keep.remove()
    return not torch.equal(*features), not torch.equal(*logits)


@pytest.mark.parametrize("kind", ENCODERS)
def test_only_the_head_drops_units(kind, tmp_path):
    name = folder(tmp_path, kind, ENCODERS[kind])
    assert passes(classifier(name, dropout=0.0)) == (False, False)
    assert passes(classifier(name, dropout=0.0, head_dropout=0.5)) == (False, True)


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_head_without_dropout_leaves_all_other_probabilities_alone(kind, tmp_path):
    name = folder(tmp_path, kind, ENCODERS[kind])

    def probabilities(model):
        below = dict(model.base_model.named_modules())
        body = {key: module.p for key, module in below.items() if hasattr(module, "p")}
        return body, {module.p for module in model.modules() if hasattr(module, "p") and module not in below.values()}

    body, _ = probabilities(classifier(name, dropout=0.25))
    same, head = probabilities(classifier(name, dropout=0.25, head_dropout=0.0))
    assert body == same and (0.25 in body.values() or kind == "flaubert")  # whose layers call a function instead of a module
    assert head <= {0.0}


def test_the_head_gets_the_probability(tmp_path):
    model = classifier(folder(tmp_path, "roberta", ENCODERS["roberta"]), dropout=0.0, head_dropout=0.05)
    dropped = []
    model.classifier.dropout.register_forward_hook(lambda module, args, output: dropped.append((output == 0).float().mean()))
    passes(model, count=4000)
    assert torch.stack(dropped).mean() == pytest.approx(0.05, abs=0.005)


def test_it_works_for_the_built_in_model_and_with_adapters(tmp_path):
    tokenizer = build_tokenizer(ModelConfig(name=TINY), ["a b c"] * 30)
    built = build_model(ModelConfig(name=TINY, dropout=0.1, head_dropout=0.0), TASKS["cola"], tokenizer, 0)
    assert built.module.classifier.dropout.p == 0.0 and built.module.config.classifier_dropout == 0.0
    assert built.module.config.hidden_dropout_prob == 0.1
    name = folder(tmp_path, "roberta", ENCODERS["roberta"])
    options = {"name": name, "head_dropout": 0.05, "lora": {"target_modules": ["query"]}}
    adapted = build_skeleton(ModelConfig.model_validate(options), TASKS["cola"])
    assert {m.p for key, m in adapted.named_modules() if "classifier" in key and isinstance(m, torch.nn.Dropout)} == {0.05}


@pytest.mark.parametrize("kind", WITHOUT)
def test_a_model_without_dropout_in_its_head_is_refused_by_name(kind, tmp_path):
    name = folder(tmp_path, kind, {k: s for k, s, *_ in FAMILIES.values()}[kind])
    with pytest.raises(UserError) as caught:
        build_skeleton(ModelConfig(name=name, head_dropout=0.0), TASKS["cola"])
    (problem,) = caught.value.problems
    assert problem.key == "model.head_dropout" and name in problem.reason and kind in problem.reason
    assert build_skeleton(ModelConfig(name=name), TASKS["cola"])
