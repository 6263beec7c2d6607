"""The DeepSpeed JSON: it sets nothing that the recipe sets, and contradictions are errors."""

import json
from pathlib import Path

import pytest

from mat_ds.engine.ds_config import ds_config_problems
from mat_ds.errors import UserError
from mat_ds.ranks.world import World
from mat_ds.runs.ds_config import complete, read_ds_config
from mat_ds.runs.options import RunConfig

ROOT = Path(__file__).parents[2]
RUN = RunConfig.model_validate({"train": {"batch_size": 32, "micro_batch_size": 4}, "optimizer": {"max_grad_norm": 1.0}})
TWO = World(0, 2, 0, 2)


def problems(tree, run=RUN, world=TWO):
    return {problem.key.removeprefix("ds_config "): problem for problem in ds_config_problems(tree, run, world)}


def test_the_recipe_fills_in_what_it_decides():
    done = complete({"zero_optimization": {"stage": 2}}, RUN, TWO)
    assert done["train_batch_size"] == 32 and done["train_micro_batch_size_per_gpu"] == 4
    assert done["gradient_accumulation_steps"] == 4 and done["gradient_clipping"] == 1.0
    assert done["managed_gradient_accumulation"] is False


def test_clipping_is_always_written_since_deepspeed_clips_at_one_by_default():
    assert complete({}, RunConfig(), World())["gradient_clipping"] == 0.0


def test_auto_is_filled_in_as_hugging_face_users_expect():
    tree = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto"}},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": "auto"}},
        "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto"},
    }
    assert not problems(tree)
    done = complete(tree, RUN, TWO)
    assert done["train_batch_size"] == 32 and "optimizer" not in done and "scheduler" not in done
    assert done["zero_optimization"] == {"stage": 3}


def test_a_json_that_agrees_with_the_recipe_is_accepted():
    assert not problems({"train_batch_size": 32, "gradient_clipping": 1.0, "zero_optimization": {"stage": 1}})


def test_contradictions_name_both_sides():
    found = problems({"train_batch_size": 64, "gradient_clipping": 0.5, "managed_gradient_accumulation": True})
    assert "train.batch_size" in found["train_batch_size"].reason and "32" in found["train_batch_size"].reason
    assert found["train_batch_size"].value == 64
    assert "optimizer.max_grad_norm" in found["gradient_clipping"].reason
    assert set(found) == {"train_batch_size", "gradient_clipping", "managed_gradient_accumulation"}


def test_optimizer_and_scheduler_belong_to_the_recipe():
    for optimizer, scheduler in (
        ({"type": "Adam", "params": {"lr": 1e-3}}, {"type": "WarmupLR"}),
        ({"type": "Lamb", "params": {}}, {"type": "OneCycle", "params": {}}),
        ({"type": "SGD", "params": {"lr": "auto"}}, {"type": "WarmupDecayLR", "params": {"warmup_num_steps": 7}}),
    ):
        assert set(problems({"optimizer": optimizer, "scheduler": scheduler})) == {"optimizer", "scheduler"}
    assert set(problems({"optimizer": {"type": "AdamW", "params": {"lr": 1e-5}}})) == {"optimizer"}, "even where it agrees"
    assert not problems({"optimizer": {"type": "AdamW", "params": {"lr": "auto"}}})


def test_unknown_and_removed_sections_are_named():
    found = problems({"zero_optimisation": {}, "elasticity": {}, "nebula": {}, "zero_optimization": {"mics_shard_size": 2}})
    assert "did you mean 'zero_optimization'" in found["zero_optimisation"].fix
    assert set(found) == {"zero_optimisation", "elasticity", "nebula", "zero_optimization.mics_shard_size"}
    assert "removed" in found["elasticity"].reason


def test_wrong_keys_inside_a_section_are_left_to_deepspeed_to_refuse():
    ((key, problem),) = problems({"zero_optimization": {"stage": 2, "reduce_bucket_sizes": 1}}).items()
    assert key == "zero_optimization.reduce_bucket_sizes" and "DeepSpeed refuses it" in problem.reason


@pytest.mark.parametrize(
    "path, value",
    [
        ("torch_autocast", {"enabled": True, "dtype": "float16"}),
        ("zero_optimization.zero_quantized_weights", True),
        ("zero_optimization.legacy_stage1", True),
        ("fp16.fp16_master_weights_and_grads", True),
        ("zero_optimization.zenflow", {"topk_ratio": 0.1}),
    ],
)
def test_what_would_break_the_method_is_refused(path, value):
    section, _, key = path.rpartition(".")
    assert path in problems({section: {key: value}} if section else {key: value})


@pytest.mark.parametrize("tree, key", [
    ({"zero_optimization": {"stage": "auto"}}, "zero_optimization.stage"), ({"zero_optimization": 2}, "zero_optimization"),
    ({"fp16": True}, "fp16"), ({"optimizer": "AdamW"}, "optimizer"), ({"bf16": {"enabled": "true"}}, "bf16.enabled"),
    ({"zero_optimization": {"stage": 2, "offload_optimizer": "cpu"}}, "zero_optimization.offload_optimizer"),
    ({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu", "ratio": 0.5}}},
     "zero_optimization.offload_optimizer.ratio"),
    ({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu", "super_offload": True}}},
     "zero_optimization.offload_optimizer.super_offload"),
])  # fmt: skip
def test_values_of_the_wrong_type_and_options_of_other_optimizers_are_named(tree, key):
    assert list(problems(tree)) == [key]


def test_offload_to_nvme_and_overlap_without_partitioned_gradients_are_refused():
    found = problems({"zero_optimization": {"stage": 1, "overlap_comm": True, "offload_optimizer": {"device": "nvme"}}})
    assert set(found) == {"zero_optimization.offload_optimizer.device", "zero_optimization.overlap_comm"}


def fake_gpu(monkeypatch, capability):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    # With a 3090 as well, the weakest card decides.
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda i=0: ((8, 6), capability)[i])
    monkeypatch.setattr("torch.cuda.get_device_name", lambda *a: "Tesla V100-SXM2-16GB")


def test_bf16_is_refused_below_compute_capability_8_with_the_reason(monkeypatch):
    fake_gpu(monkeypatch, (7, 0))
    found = problems({"bf16": {"enabled": True}})
    assert "7.0" in found["bf16.enabled"].reason and "V100" in found["bf16.enabled"].reason
    fake_gpu(monkeypatch, (8, 6))
    assert not problems({"bf16": {"enabled": True}})


def test_fp16_needs_a_gpu_and_one_precision_is_enough():
    assert "fp16.enabled" in problems({"fp16": {"enabled": True}})
    assert "fp16.enabled, bf16.enabled" in problems({"fp16": {"enabled": True}, "bf16": {"enabled": True}})
    assert "bf16.enabled" in problems({"bf16": {"enabled": "auto"}})


@pytest.mark.parametrize("path", sorted((ROOT / "ds_configs").glob("*.json")), ids=lambda path: path.stem)
def test_every_packaged_configuration_is_accepted_on_cards_with_its_precision(path, monkeypatch):
    tree = read_ds_config(path)
    if tree.get("fp16"):
        fake_gpu(monkeypatch, (7, 0))
    assert not problems(tree)
    assert path.stem in (ROOT / "docs" / "clusters.md").read_text()


def test_a_file_that_is_not_json_is_a_user_error(tmp_path):
    for content in ("{", "[]", "", " ", "null", "3", "words"):
        path = tmp_path / "ds.json"
        path.write_text(content)
        with pytest.raises(UserError):
            read_ds_config(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_ds_config(tmp_path / "none.json")
    assert json.loads((ROOT / "ds_configs" / "zero2.json").read_text())["zero_optimization"]["stage"] == 2
