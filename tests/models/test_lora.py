"""Adapters on one process: trained parameters, initial values, and that an incomplete file does not count as saved."""

import os

import peft.peft_model
import pytest
import torch

from mat_ds.artifacts.exported import load_exported, move_base, weight_bytes
from mat_ds.errors import UserError
from mat_ds.models.lora import add_lora, copies, write_adapter
from mat_ds.models.options import LoraConfig
from tests.support.expected import VARIANTS
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


@pytest.mark.parametrize("variant", ["lora", *VARIANTS])
@pytest.mark.parametrize("merge", [False, True], ids=["adapters", "merged"])
def test_saved_adapters_predict_like_the_trained_ones(merge, variant, base, tmp_path):
    targets = ["query", "intermediate.dense"]
    model = adapted(base, modules_to_save=["layer.1.output"], target_modules=targets, variant=variant)
    write_adapter(model, shaken(model), tmp_path / "out", merge)
    inputs = {"input_ids": torch.arange(3, 27).view(3, 8), "attention_mask": torch.ones(3, 8, dtype=torch.long)}
    for folder in (tmp_path / "out", tmp_path / "out" / "adapter") if merge else (tmp_path / "out",):
        found = load_exported(folder, torch.float32, torch.device("cpu"))
        assert torch.allclose(found(**inputs).logits, model.eval()(**inputs).logits, atol=1e-6)
        assert not torch.allclose(found(**inputs).logits, tiny_roberta().eval()(**inputs).logits, atol=1e-2)
    assert weight_bytes(tmp_path / "out") > sum(file.stat().st_size for file in base.glob("*.safetensors")) - 4096


def by_definition(variant, w, a, b, length):
    """A layer's weight from the base's, the adapters of rank 4 with alpha 16 and DoRA's lengths, in float64."""
    product = {"rslora": 16 / 4**0.5}.get(variant, 16 / 4) * b @ a
    if variant == "dora":
        return length[:, None] * (w + product) / (w + product).norm(dim=1, keepdim=True)
    if variant == "pissa":
        u, s, v = torch.linalg.svd(w, full_matrices=False)
        return w - u[:, :4] * s[:4] @ v[:4] + product
    return w + product


@pytest.mark.parametrize("variant", ["lora", *VARIANTS])
def test_each_variant_is_what_its_paper_defines_and_begins_as_the_base(variant, base, tmp_path):
    model, plain = adapted(base, variant=variant), tiny_roberta()
    inputs = {"input_ids": torch.arange(3, 27).view(3, 8), "attention_mask": torch.ones(3, 8, dtype=torch.long)}
    torch.testing.assert_close(model.eval()(**inputs).logits, plain.eval()(**inputs).logits, rtol=1e-5, atol=1e-6)
    found = shaken(model)
    write_adapter(model, found, tmp_path / "out", merge=True)
    merged = load_exported(tmp_path / "out", torch.float32, torch.device("cpu")).get_parameter
    lengths = 0
    for name in (name for name in found if ".lora_A." in name):
        layer = name.partition(".lora_A.")[0]
        length = found.get(f"{layer}.lora_magnitude_vector.default.weight")
        lengths += length is not None
        own = layer.removeprefix("base_model.model.") + ".weight"
        parts = [
            None if t is None else t.double()
            for t in (plain.get_parameter(own).detach(), found[name], found[name.replace("lora_A", "lora_B")], length)
        ]
        torch.testing.assert_close(merged(own).double(), by_definition(variant, *parts), rtol=1e-4, atol=1e-5)
    assert bool(lengths) == (variant == "dora")


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_plan_without_values_counts_what_is_trained(variant, base):
    with torch.device("meta"):
        planned = add_lora(tiny_roberta(), str(base), LoraConfig(r=4, variant=variant), [], 0)
    real = {name: (value.shape, value.requires_grad) for name, value in adapted(base, variant=variant).named_parameters()}
    assert {n: (v.shape, v.requires_grad) for n, v in planned.named_parameters() if "spare" not in n} == real


def test_a_rank_without_enough_singular_values_is_refused(base):
    with pytest.raises(UserError, match="take at most 24"):
        add_lora(tiny_roberta(), str(base), LoraConfig(r=32, variant="pissa"), [], 0)


def test_initial_adapters_depend_only_on_the_seed(base):
    torch.manual_seed(1)
    first = trained(adapted(base))
    torch.manual_seed(2)
    assert all(torch.equal(first[name], value) for name, value in trained(adapted(base)).items())
    assert not all(torch.equal(first[name], value) for name, value in trained(adapted(base, seed=1)).items())


def test_what_pissa_leaves_of_the_base_does_not_depend_on_the_number_of_threads(base):
    def left():
        model = tiny_roberta(hidden_size=256)  # so large that threads share the work
        model = add_lora(model, str(base), LoraConfig(r=4, variant="pissa"), [], 0)
        return {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}

    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(left())
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


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
