"""`mat-ds export`: the new folder predicts as the old one does and does not need it."""

import json
import shutil

import pytest
import torch
from huggingface_hub.repocard import ModelCardData, metadata_load
from safetensors.torch import load_file

from mat_ds.artifacts.finished import read_finished
from mat_ds.cli import main
from mat_ds.errors import ExitCode
from mat_ds.evaluation.predictor import load_predictor
from mat_ds.registry.flavor import whole_model
from mat_ds.registry.locate import locate
from mat_ds.tasks.example import Example
from tests.support.heads import HEADS, adapter_run, finished_run, texts_of


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {task: finished_run(folder / task, task) for task in HEADS} | {"lora": adapter_run(folder / "lora", folder / "base")}


def logits(model, task):
    return load_predictor(str(model), locate(str(model))).kept([Example(row, None) for row in texts_of(task)])


def test_a_copy_equals_the_model_bit_for_bit_and_has_its_task(runs, tmp_path):
    for task in HEADS:
        assert main(["export", str(runs[task]), str(tmp_path / task)]) == ExitCode.OK
        assert torch.equal(logits(tmp_path / task, task), logits(runs[task], task))
        assert (tmp_path / task / "README.md").read_text() == (runs[task] / "model" / "README.md").read_text()


def test_merged_adapters_need_no_base_and_unmerged_ones_stay_adapters(runs, tmp_path):
    expected = logits(runs["lora"], "cola")
    for name, options in {"merged": ["--merge"], "adapters": []}.items():
        assert main(["export", str(runs["lora"]), str(tmp_path / name), *options]) == ExitCode.OK
    assert logits(tmp_path / "adapters", "cola") == pytest.approx(expected, abs=1e-5)
    base = runs["lora"].parent / "base"
    base.rename(tmp_path / "gone")
    try:
        assert logits(tmp_path / "merged", "cola") == pytest.approx(expected, abs=1e-4)
        assert main(["export", str(tmp_path / "adapters"), str(tmp_path / "more")]) == ExitCode.USER_ERROR, "its base is gone"
    finally:
        (tmp_path / "gone").rename(base)
    assert not list(tmp_path.glob(".*")) and not (tmp_path / "more").exists()
    card = tmp_path / "merged" / "README.md"
    assert "have been merged" in card.read_text() and "PeftModel" not in card.read_text()
    assert metadata_load(card)["library_name"] == "transformers" and metadata_load(card)["model-index"]


def test_a_model_merged_in_training_is_registered_whole_with_its_adapters(runs, tmp_path):
    """As `model.lora.merge` leaves it: the whole model in `model/`, the adapters in `model/adapter/`."""
    run = shutil.copytree(runs["lora"], tmp_path / "run")
    adapters = (run / "model").rename(tmp_path / "adapters")
    assert main(["export", str(adapters), str(run / "model"), "--merge"]) == ExitCode.OK
    shutil.copytree(adapters, run / "model" / "adapter")
    source, kept = whole_model(read_finished(run), tmp_path / "whole")
    assert kept == run / "model" / "adapter" and (kept / "adapter_config.json").exists()
    assert source == tmp_path / "whole" and not (source / "adapter").exists() and (source / "README.md").exists()
    assert logits(source, "cola") == pytest.approx(logits(runs["lora"], "cola"), abs=1e-4)


def test_another_precision_rounds_the_weights_and_is_in_the_card(runs, tmp_path):
    assert main(["export", str(runs["cola"]), str(tmp_path / "half"), "--dtype", "bfloat16"]) == ExitCode.OK
    found, whole = (load_file(folder / "model.safetensors") for folder in (tmp_path / "half", runs["cola"] / "model"))
    assert found.keys() == whole.keys() and all(torch.equal(found[k], whole[k].to(torch.bfloat16)) for k in whole)
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    assert "Rounded to bfloat16" in (tmp_path / "half" / "README.md").read_text()


def test_nothing_is_overwritten_and_impossible_exports_are_refused(runs, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    big = shutil.copytree(runs["cola"] / "model", tmp_path / "big")
    from safetensors.torch import save_file

    weights = load_file(big / "model.safetensors")
    weights["classifier.dense.bias"][0] = 1e6
    save_file(weights, big / "model.safetensors", {"format": "pt"})
    new = str(tmp_path / "new")
    for arguments, told in (
        ([runs["cola"], tmp_path / "full"], "not an empty folder"),
        ([tmp_path / "full", new], "neither"),
        ([big, new, "--dtype", "float16"], "exceed its range"),
        ([runs["lora"], new, "--dtype", "float16"], "pass --merge"),
        ([runs["cola"], new, "--weights", "average"], "no undamaged checkpoint"),
        (["models:/a/1", new, "--weights", "raw"], "not a run directory"),
    ):
        assert main(["export", *map(str, arguments)]) == ExitCode.USER_ERROR
        assert told in capsys.readouterr().err
        assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("task", [*HEADS, "lora"])
def test_the_card_has_valid_metadata_and_the_required_content(task, runs):
    card = runs[task] / "model" / "README.md"
    found = metadata_load(card)
    assert ModelCardData(**found).to_dict() == found, "what the hub's own library makes of it"
    assert found["pipeline_tag"] == "text-classification" and "license" not in found and "base_model" not in found
    (index,) = found["model-index"]
    assert {metric["value"] for result in index["results"] for metric in result["metrics"]} == {0.5}
    assert found["library_name"] == ("peft" if task == "lora" else "transformers")
    text = card.read_text()
    assert all(
        f"## {part}" in text
        for part in ("Task and data", "Method and settings", "Hardware and cost", "Intended use and limits", "How to load")
    )
    assert all(
        row in text for row in ("| last | 6 | 0.4000 |", "| best | 4 | 0.5000 |", "of the last half | | 0.4500 |", "Seed 0")
    )
    assert str(runs[task]) not in text and "{" not in text.split("## Method")[0]
