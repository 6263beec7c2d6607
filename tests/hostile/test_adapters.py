"""Adapters from strangers: they import and fetch nothing, and must be complete."""

import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from mat_ds.artifacts.exported import load_classifier
from mat_ds.errors import UserError
from mat_ds.models.build import build_tokenizer
from mat_ds.models.options import ModelConfig
from tests.hostile.strangers import MARKER, adapters, edit, with_code

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return adapters(tmp_path_factory.mktemp("adapters"))


@pytest.fixture
def folder(whole, tmp_path):
    shutil.copytree(whole.parent.parent / "base", tmp_path / "base")
    found = shutil.copytree(whole, tmp_path / "model")
    edit(found / "adapter_config.json", base_model_name_or_path=str(tmp_path / "base"))
    load_classifier(found, torch.float32, CPU)
    return found


def refused(folder):
    with pytest.raises(UserError) as error:
        load_classifier(folder, torch.float32, CPU)
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"auto_mapping": {"base_model_class": "Evil", "parent_library": "evil"}}, "needs code"),
        ({"megatron_config": {"a": 1}, "megatron_core": "evil"}, "needs code"),
        ({"auto_map": {"AutoModel": "evil.Evil"}}, "needs code"),
        ({"peft_type": "XLORA"}, "XLORA"),
        ({"peft_type": None}, "only LORA"),
        ({"base_model_name_or_path": None}, "base"),
        ({"base_model_name_or_path": ["a"]}, "base"),
        ({"base_model_name_or_path": "https://127.0.0.1:1/x"}, "https://127.0.0.1:1/x"),
        ({"base_model_name_or_path": "/nowhere/at/all"}, "there is no such folder"),
        ({"base_model_name_or_path": "somebody/nothing"}, "somebody/nothing"),
        ({"r": "many"}, "cannot be loaded"),
        ({"target_modules": ["nothing"]}, "cannot be loaded"),
    ],
)
def test_adapters_with_a_hostile_configuration_are_refused(change, told, folder, monkeypatch):
    (folder / "evil.py").write_text(f"from pathlib import Path\nPath({str(folder.parent / MARKER)!r}).write_text('ran')\n")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    edit(folder / "adapter_config.json", **change)
    text = refused(folder)
    assert told in text and str(folder) in text
    assert not (folder.parent / MARKER).exists()


def test_code_of_the_base_does_not_run(folder):
    with_code(folder.parent / "base", AutoConfig="sparkle.SparkleConfig")
    assert "needs code of its own" in refused(folder) and not (folder.parent / MARKER).exists()


def test_the_base_must_be_a_complete_model_without_adapters(folder):
    base = folder.parent / "base"
    kept = base / "model.safetensors"
    weights = {name: value.clone() for name, value in load_file(kept).items()}
    save_file({f"module.{name}": value for name, value in weights.items()}, kept, {"format": "pt"})
    assert "none of its" in refused(folder)
    save_file(weights, kept, {"format": "pt"})
    shutil.copy(folder / "adapter_config.json", base)
    assert "not a whole model" in refused(folder)


@pytest.mark.parametrize("part", ["classifier.out_proj.weight", "lora_B"])
def test_missing_weights_are_refused_and_not_initialised(part, folder):
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    lacking = next(name for name in weights if part in name)
    save_file({name: value.clone() for name, value in weights.items() if name != lacking}, file, {"format": "pt"})
    assert lacking in refused(folder)


def test_training_adapters_further_is_refused(folder):
    with pytest.raises(UserError, match="--merge"):
        build_tokenizer(ModelConfig(name=str(folder)), ())
