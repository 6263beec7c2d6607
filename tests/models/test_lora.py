"""Adapters on one process: trained parameters, initial values, and that an incomplete file does not count as saved."""

import os

import peft.peft_model
import pytest
import torch

from mat_ds.artifacts.exported import load_exported, move_base, weight_bytes
from mat_ds.errors import UserError
from mat_ds.models.lora import add_lora, copies, write_adapter
from mat_ds.models.options import LoraConfig
from tests.support.tiny import tiny_roberta


@pytest.fixture
def base(tmp_path):
    model = tiny_roberta()
    del model.spare
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def adapted(base, seed=0, **options):
    model = tiny_roberta()
    del model.spare
    return add_lora(model, str(base), LoraConfig(r=4, **options), [], seed)


def trained(model):
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def shaken(model):
    """Changes all trained parameters, and returns them."""
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p) * 0.1)
    return trained(model)


@pytest.mark.parametrize("merge", [False, True], ids=["adapters", "merged"])
def test_saved_adapters_predict_like_the_trained_ones(merge, base, tmp_path):
    model = adapted(base, modules_to_save=["layer.1.output"], target_modules=["query", "intermediate.dense"])
    write_adapter(model, shaken(model), tmp_path / "out", merge)
    inputs = {"input_ids": torch.arange(3, 27).view(3, 8), "attention_mask": torch.ones(3, 8, dtype=torch.long)}
    for folder in (tmp_path / "out", tmp_path / "out" / "adapter") if merge else (tmp_path / "out",):
        found = load_exported(folder, torch.float32, torch.device("cpu"))
        assert torch.allclose(found(**inputs).logits, model.eval()(**inputs).logits, atol=1e-6)
        assert not torch.allclose(found(**inputs).logits, tiny_roberta().eval()(**inputs).logits, atol=1e-2)
    assert weight_bytes(tmp_path / "out") > sum(file.stat().st_size for file in base.glob("*.safetensors")) - 4096


def test_initial_adapters_depend_only_on_the_seed(base):
    torch.manual_seed(1)
    first = trained(adapted(base))
    torch.manual_seed(2)
    assert all(torch.equal(first[name], value) for name, value in trained(adapted(base)).items())
    assert not all(torch.equal(first[name], value) for name, value in trained(adapted(base, seed=1)).items())


def test_peft_copies_of_trained_modules_are_matched_with_their_originals(base):
    model = adapted(base, modules_to_save=["layer.1.output"])
    pairs = list(copies(model))
    assert len(pairs) == 4 + 4 and all(c.requires_grad and not o.requires_grad and torch.equal(c, o) for c, o in pairs)


@pytest.mark.parametrize("loses", ["classifier.dense.weight", "lora_B"])
def test_a_file_without_a_tensor_or_with_an_empty_one_does_not_count_as_saved(loses, base, tmp_path, monkeypatch):
    save = peft.peft_model.safe_save_file
    emptied = lambda tensors, *rest, **more: save(  # noqa: E731
        {name: torch.empty(0) if loses in name else value for name, value in tensors.items()}, *rest, **more
    )
    monkeypatch.setattr(peft.peft_model, "safe_save_file", emptied)
    model = adapted(base)
    with pytest.raises(RuntimeError, match="does not hold the trained values of"):
        write_adapter(model, shaken(model), tmp_path / "out", merge=False)


@pytest.mark.parametrize("merge", [False, True], ids=["adapters", "merged"])
def test_adapters_with_a_missing_base_name_it_and_load_once_its_place_is_given(merge, base, tmp_path):
    model = adapted(base, target_modules=["query"])
    write_adapter(model, shaken(model), tmp_path / "out", merge)
    folder = tmp_path / "out" / "adapter" if merge else tmp_path / "out"
    kept = tmp_path / "kept.json"
    os.link(folder / "adapter_config.json", kept)
    before, (cpu, fp32) = kept.read_bytes(), (torch.device("cpu"), torch.float32)
    expected = dict(load_exported(folder, fp32, cpu).named_parameters())
    base.rename(tmp_path / "moved")
    with pytest.raises(UserError) as error:
        load_exported(folder, fp32, cpu)
    assert str(base) in str(error.value) and str(folder / "adapter_config.json") in str(error.value)
    move_base(tmp_path / "out", str(tmp_path / "moved"))
    found = dict(load_exported(folder, fp32, cpu).named_parameters())
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    assert kept.read_bytes() == before, "a checkpoint has the file by another name"
    move_base(tmp_path, "nothing there")


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_the_head_is_trained_whatever_its_name_in_the_architecture(kind, tmp_path):
    from tests.models.test_perturbable import TWO_SIDED, made

    model = made(kind, **TWO_SIDED[kind])
    model.save_pretrained(tmp_path / "base")
    expected = {f"{name}.{part}" for name in ("dense", "out_proj") for part in ("weight", "bias")}
    model = add_lora(model, str(tmp_path / "base"), LoraConfig(r=2), [], 0)
    whole = {name.partition("modules_to_save.default.")[2] for name in trained(model) if "lora_" not in name}
    assert whole == expected
    write_adapter(model, shaken(model), tmp_path / "out", merge=False)
    inputs = {"input_ids": torch.tensor([[0, 5, 6, 2], [0, 9, 7, 2]]), "attention_mask": torch.ones(2, 4, dtype=torch.long)}
    found = load_exported(tmp_path / "out", torch.float32, torch.device("cpu"))
    torch.testing.assert_close(found(**inputs).logits, model.eval()(**inputs).logits)
