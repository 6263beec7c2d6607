"""A model is used only if its folder has its weights and its labels can be put into the task's order."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mat_ds.artifacts.exported import load_classifier
from mat_ds.cli import main
from mat_ds.errors import ExitCode, UserError
from mat_ds.models.build import build_model, build_tokenizer
from mat_ds.models.options import ModelConfig
from mat_ds.models.unread import value_of
from mat_ds.tasks.registry import TASKS
from tests.hostile.strangers import edit, stranger
from tests.models.test_families import save
from tests.support.families import FAMILIES
from tests.support.families import build as family_of

CPU = torch.device("cpu")
both_ways = pytest.mark.parametrize("leave_unread", [False, True], ids=["read", "left unread"])


def built(folder, task="sst2", leave_unread=False, **options):
    model = ModelConfig.model_validate({"name": str(folder), "dropout": 0.0, **options})
    return build_model(model, TASKS[task], build_tokenizer(model, ()), 0, leave_unread)


def rewrite(folder, change):
    """Rewrites the weights; `change` maps a dict of tensors to another."""
    file = folder / "model.safetensors"
    kept = {name: value.clone() for name, value in load_file(file).items()}
    save_file(change(kept), file, {"format": "pt"})


def refused(folder, **options):
    """The error of training, which must be that of every other command, with weights read at once or later."""
    with pytest.raises(UserError) as error:
        built(folder, **options)
    with pytest.raises(UserError) as left:
        built(folder, leave_unread=True, **options)
    assert str(left.value) == str(error.value)
    with pytest.raises(UserError):
        load_classifier(folder, torch.float32, CPU)
    return str(error.value)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "base."])
@pytest.mark.parametrize("part", ["all", "the backbone"])
def test_a_backbone_without_any_fitting_weight_is_refused_and_the_wrong_prefix_named(prefix, part, tmp_path):
    folder = stranger(tmp_path / "model")
    rewrite(
        folder,
        lambda weights: {
            (prefix if part == "all" or name.startswith("roberta") else "") + name: value for name, value in weights.items()
        },
    )
    told = refused(folder)
    assert "model.name" in told and "none of its" in told and repr(prefix) in told and "roberta.embeddings" in told


def test_an_encoder_with_a_prefix_is_refused_too(tmp_path):
    folder = stranger(tmp_path / "model")
    rewrite(
        folder,
        lambda weights: {
            name.replace("roberta.", "module."): value for name, value in weights.items() if name.startswith("roberta")
        },
    )
    assert "'module.'" in refused(folder)


@pytest.mark.parametrize("lora", [None, {"target_modules": ["query"]}], ids=["whole", "adapters"])
def test_an_incomplete_backbone_is_refused(lora, tmp_path):
    folder = stranger(tmp_path / "model")
    rewrite(folder, lambda weights: {name: value for name, value in weights.items() if ".layer.1." not in name})
    told = refused(folder, lora=lora)
    assert "only " in told and "roberta.encoder.layer.1" in told


def test_weights_of_another_shape_or_of_more_layers_than_the_configuration_has_are_refused(tmp_path):
    folder = stranger(tmp_path / "shape")
    edit(folder / "config.json", intermediate_size=100)
    assert "roberta.encoder.layer.0" in (told := refused(folder)) and "192" in told and "100" in told
    folder = stranger(tmp_path / "layers")
    edit(folder / "config.json", num_hidden_layers=1)
    assert "roberta.encoder.layer.1" in refused(folder)


def test_weights_of_another_architecture_are_refused(tmp_path):
    folder = stranger(tmp_path / "model")
    edit(folder / "config.json", model_type="bert", type_vocab_size=1, architectures=["BertForSequenceClassification"])
    assert "none of its" in refused(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pre_trained_encoder_from_the_hub_fits(family, tmp_path):
    options = save(tmp_path, family, eos_token="</s>", pad_token="<pad>")
    model = family_of(family)
    model.base_model.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda weights: {name: value for name, value in weights.items() if "pooler" not in name})
    found = build_model(options, TASKS["mnli"], build_tokenizer(options, ()), 0)
    assert found.fresh and not [name for name in found.fresh if "layer" in name or "embeddings" in name]


def answers(model, tokenizer):
    inputs = tokenizer(["a good film", "an awful, long one"], padding=True, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**inputs).logits


def fill(found):
    for parameter in found.module.parameters():
        parameter.data = value_of(parameter, found.unread)
    return found.module


@both_ways
@pytest.mark.parametrize(
    "names",
    [
        {"id2label": {"0": "POSITIVE", "1": "NEGATIVE"}},
        {"id2label": {"0": "Positive", "1": "negative"}, "label2id": None},
        {"id2label": None, "label2id": {"positive": 0, "negative": 1}},
    ],
)
def test_a_head_with_the_tasks_labels_in_another_order_is_reordered(names, leave_unread, tmp_path):
    folder = stranger(tmp_path / "model")
    edit(folder / "config.json", **names)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    whole = AutoModelForSequenceClassification.from_pretrained(folder)
    found = built(folder, leave_unread=leave_unread)
    assert not found.fresh and "positive" in found.head.lower()
    torch.testing.assert_close(answers(fill(found), tokenizer), answers(whole, tokenizer).flip(1))
    assert found.module.config.id2label == {0: "negative", 1: "positive"}


@both_ways
def test_a_head_of_three_labels_is_reordered_in_the_right_direction(leave_unread, tmp_path):
    options = save(tmp_path, "bert", eos_token="</s>", pad_token="<pad>")
    edit(tmp_path / "config.json", id2label={"0": "neutral", "1": "contradiction", "2": "ENTAILMENT"}, label2id=None)
    tokenizer = build_tokenizer(options, ())
    whole = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    found = build_model(options, TASKS["mnli"], tokenizer, 0, leave_unread)
    assert TASKS["mnli"].labels == ("entailment", "neutral", "contradiction")
    torch.testing.assert_close(answers(fill(found), tokenizer), answers(whole, tokenizer)[:, [2, 0, 1]])


@both_ways
@pytest.mark.parametrize("names", [{"0": "sad", "1": "glad"}, {"0": "negative", "1": "neutral"}, {"0": "1", "1": "0"}])
def test_a_head_of_other_labels_is_initialised_anew_and_that_is_printed(names, leave_unread, tmp_path):
    folder = stranger(tmp_path / "model")
    edit(folder / "config.json", id2label=names, label2id=None)
    found = built(folder, leave_unread=leave_unread)
    assert found.fresh == ["classifier.out_proj.bias", "classifier.out_proj.weight"] and names["0"] in found.head
    kept, new = load_file(folder / "model.safetensors")["classifier.out_proj.weight"], fill(found).classifier.out_proj
    assert not new.bias.any() and 0.02 < new.weight.std() < 0.5 and not torch.isclose(kept, new.weight).any()
    assert torch.equal(new.weight, fill(built(folder, leave_unread=not leave_unread)).classifier.out_proj.weight)


@pytest.mark.parametrize(
    "names", [{"0": "negative", "1": "positive"}, None, {"0": "NEGATIVE", "1": "Positive"}, {"0": "0", "1": "1"}]
)
def test_a_head_with_the_same_or_unnamed_labels_is_kept(names, tmp_path):
    folder = stranger(tmp_path / "model")
    edit(folder / "config.json", id2label=names, label2id=None)
    found = built(folder)
    kept = load_file(folder / "model.safetensors")
    assert not found.fresh and not found.head
    assert torch.equal(kept["classifier.out_proj.weight"], found.module.classifier.out_proj.weight)


def test_commands_that_do_not_train_refuse_other_labels_and_another_order(tmp_path, capsys):
    folder = stranger(tmp_path / "model")
    for names in ({"0": "POSITIVE", "1": "NEGATIVE"}, {"0": "sad", "1": "glad"}):
        edit(folder / "config.json", id2label=names, label2id=None)
        (tmp_path / "in.txt").write_text("a\n")
        assert main(["predict", str(folder), str(tmp_path / "in.txt"), "--task", "sst2"]) == ExitCode.USER_ERROR
        told = capsys.readouterr().err
        assert all(name in told for name in names.values()) and "labels: [" in told
        assert main(["predict", str(folder), str(tmp_path / "in.txt")]) == ExitCode.OK
        assert json.loads(capsys.readouterr().out)["label"] in names.values()


@pytest.mark.parametrize(
    "kind, ways",
    # By itself the first is a multi-label model like any other; no kind has scores of two outputs.
    [("multi_label_classification", [["--task", "sst2"]]), ("regression", [[], ["--task", "sst2"]])],
)
def test_a_model_of_another_kind_with_the_same_number_of_outputs_is_refused(kind, ways, tmp_path, capsys):
    folder = stranger(tmp_path / "model")
    edit(folder / "config.json", problem_type=kind)
    (tmp_path / "in.txt").write_text("a\n")
    for more in ways:
        assert main(["predict", str(folder), str(tmp_path / "in.txt"), *more]) == ExitCode.USER_ERROR
        told = capsys.readouterr()
        assert not told.out and "problem_type" in told.err and kind.replace("_", " ") in told.err


def test_a_classifier_without_head_or_pooler_is_refused_for_prediction(tmp_path):
    for part in ("classifier.out_proj.weight", "classifier.dense.bias"):
        folder = stranger(tmp_path / part)
        rewrite(folder, lambda weights, part=part: {name: value for name, value in weights.items() if name != part})
        with pytest.raises(UserError, match=part):
            load_classifier(folder, torch.float32, CPU)
    save(tmp_path / "bert", "bert", eos_token="</s>", pad_token="<pad>")
    rewrite(tmp_path / "bert", lambda weights: {name: value for name, value in weights.items() if "pooler" not in name})
    with pytest.raises(UserError, match="pooler"):
        load_classifier(tmp_path / "bert", torch.float32, CPU)


def test_weights_stored_twice_with_different_values_are_refused(tmp_path):
    folder = stranger(tmp_path / "key")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text('{"model_type": "roberta", ' + text[1:])
    assert not built(folder).fresh, "the same twice is no matter"
    (folder / "config.json").write_text(text.replace('"0": "negative"', '"0": "positive", "0": "negative"'))
    assert 'as "positive" and as "negative"' in refused(folder)

    folder = stranger(tmp_path / "tensor")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="300KB")
    first, second, *_ = sorted(folder.glob("model-*.safetensors"))
    assert not built(folder).fresh
    weights = {name: value.clone() for name, value in load_file(second).items()}
    name, value = next(iter(load_file(first).items()))
    save_file(weights | {name: value + 1}, second, {"format": "pt"})
    told = refused(folder)
    assert name in told and first.name in told and second.name in told
