"""The doctor's checks of a run's inputs: options, DeepSpeed's JSON, data and model."""

import json
from pathlib import Path

import pytest
import torch
from transformers import RobertaConfig, RobertaForSequenceClassification

from mat_ds.commands.doctor import parse
from mat_ds.doctor.inputs import check_data, check_inputs, check_model_files, count_model, read_inputs
from mat_ds.doctor.rows import Status, collect
from mat_ds.errors import UserError
from mat_ds.ranks.world import World
from mat_ds.runs import plugins
from mat_ds.runs.load import load_run_config
from mat_ds.tasks.hub import Hub
from mat_ds.tasks.registry import TASKS
from tests.support.launch import ROOT

ALONE = World()
OFFLINE, REACHED, UNREACHED = Hub("the hub", offline=True), Hub("the hub"), Hub("the hub", why="no route")
TINY = dict(vocab_size=64, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=40)


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))


def found(rows):
    return {row.name: row for row in rows}


def rows_of(check, overrides, *arguments):
    return found(collect("run", check, load_run_config(None, overrides), *arguments))


def read(overrides=(), ds_config=None, recipe=None, world=ALONE):
    inputs = read_inputs(recipe, list(overrides), ds_config, world)
    return inputs, found(check_inputs(inputs))


def test_a_plugin_is_loaded_first_and_its_failure_is_a_row(tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text("import mat_ds\nmat_ds.register_task(name='from_doctor', text=['s'], labels=['x', 'y'])\n")
    try:
        for given, expected in ((plugin, Status.PASS), (tmp_path / "none.py", Status.FAIL)):
            parsed = parse(["--plugin", str(given), "task=from_doctor", "method.name=vanilla"])
            rows = found(check_inputs(read_inputs(parsed.recipe, parsed.overrides, None, ALONE, parsed.plugin)))
            assert rows["options" if expected is Status.PASS else "--plugin"].status is expected
    finally:
        TASKS.pop("from_doctor", None)
        plugins._origins.pop(("task", "from_doctor"), None)
        plugins._loaded.pop(str(plugin), None)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    RobertaForSequenceClassification(RobertaConfig(**TINY)).save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def cola(tmp_path):
    for split in ("train", "validation"):
        path = tmp_path / "data" / "cola" / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"sentence": "a key", "label": 1})] * 200
        path.write_text("\n".join([*lines, "not JSON, and too far behind to be read"]))
    return tmp_path / "data"


def test_each_problem_that_train_would_refuse_is_a_row(tmp_path):
    ds_config = tmp_path / "ds.json"
    ds_config.write_text(json.dumps({"gradient_clipping": 0.5, "fp16": {"enabled": True}}))
    inputs, rows = read(["train.epoch=1", "train.batch_size=32"], ds_config)
    assert {row.status for row in rows.values()} == {Status.FAIL}
    assert set(rows) == {"train.epoch", "ds_config gradient_clipping", "ds_config fp16.enabled"}
    assert "did you mean 'epochs'" in rows["train.epoch"].fix and inputs.run.train.batch_size == 32


def test_a_json_without_a_recipe_is_checked_as_far_as_possible(tmp_path):
    ds_config = tmp_path / "ds.json"
    ds_config.write_text(json.dumps({"train_batch_size": 6, "gradient_clipping": 1.0, "zero_optimization": {"stage": 2}}))
    _, rows = read((), ds_config)
    assert rows["ds_config"].found == "ZeRO-2, fp32" and list(rows) == ["ds_config"]
    ds_config.write_text(json.dumps({"zero_optimization": {"stage": 4}}))
    assert read((), ds_config)[1]["ds_config zero_optimization.stage"].status is Status.FAIL


def test_unreadable_files_are_rows_and_without_files_there_are_none(tmp_path):
    _, rows = read((), tmp_path / "none.json", tmp_path / "none.yaml")
    assert {row.status for row in rows.values()} == {Status.FAIL} and len(rows) == 2
    inputs, rows = read()
    assert inputs.run is None and not rows


def test_data_is_looked_for_and_only_its_beginning_is_read(cola):
    row = rows_of(check_data, ["task=cola", f"data.path={cola}"], OFFLINE)["data"]
    assert row.status is Status.PASS and "validation, cola/train can be read" in row.found
    (cola / "cola" / "validation.jsonl").unlink()
    assert rows_of(check_data, ["task=cola", f"data.path={cola}"], OFFLINE)["cola/validation"].status is Status.FAIL


def test_every_split_of_every_source_is_looked_for(cola):
    rows = collect("run", check_data, load_run_config(None, ["task=anli_mixture", f"data.path={cola}"]), OFFLINE)
    for source in ("anli", "mnli", "snli", "fever_nli"):
        assert sum(f"has no folder '{source}'" in row.found for row in rows) == 1


def test_hub_data_are_cached_can_be_fetched_or_are_out_of_reach(tmp_path):
    task = ["task=cola"]
    assert rows_of(check_data, task, REACHED)["data of cola"].status is Status.WARN
    assert rows_of(check_data, task, UNREACHED)["data of cola"].status is Status.FAIL
    assert "mat-ds prepare" in rows_of(check_data, task, OFFLINE)["data.path"].fix
    (tmp_path / "datasets" / "nyu-mll___glue" / "cola" / "0.0.0" / "0123").mkdir(parents=True)
    assert rows_of(check_data, task, UNREACHED)["data of cola"].status is Status.PASS
    assert rows_of(check_data, ["task=demo"], UNREACHED)["data"].status is Status.PASS


def test_a_model_folder_must_be_complete(model):
    run = [f"model.name={model}"]
    assert "0.0 M parameters" in rows_of(check_model_files, run, None, OFFLINE)["model"].found
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    row = rows_of(check_model_files, run, None, OFFLINE)["model"]
    assert row.status is Status.FAIL and row.found.endswith("lacks model-00002-of-00002.safetensors")
    (model / "tokenizer.json").unlink()
    assert "has no tokenizer" in rows_of(check_model_files, run, None, OFFLINE)["model.name"].found


def test_a_hub_model_is_cached_can_be_fetched_or_is_out_of_reach(model, tmp_path):
    run = ["model.name=someone/some-model"]
    assert rows_of(check_model_files, run, None, REACHED)["model"].status is Status.WARN
    assert rows_of(check_model_files, run, None, OFFLINE)["model"].status is Status.FAIL
    cached = tmp_path / "hub" / "models--someone--some-model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0123")
    (cached / "snapshots").mkdir()
    model.rename(cached / "snapshots" / "0123")
    assert rows_of(check_model_files, run, None, OFFLINE)["model"].status is Status.PASS


def test_weights_trained_in_bf16_are_no_match_for_fp16(model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    rows = rows_of(check_model_files, [f"model.name={model}"], {"fp16": {"enabled": True}}, OFFLINE)
    assert rows["model in fp16"].status is Status.WARN
    assert "model in fp16" not in rows_of(check_model_files, [f"model.name={model}"], {"bf16": {"enabled": True}}, OFFLINE)


def test_parameters_are_counted_without_loading_weights(model):
    expected = sum(p.numel() for p in RobertaForSequenceClassification(RobertaConfig(**TINY)).parameters())
    assert count_model(load_run_config(None, [f"model.name={model}"])) == expected
    assert count_model(load_run_config(None, ["model.name=/nowhere"])) is None
    assert torch.empty(1).device.type == "cpu"


def test_a_wrong_command_line_is_refused():
    for wrong in (["nonsense"], ["--ds_confg", "x"], ["--timeout", "0"]):
        with pytest.raises(UserError, match="command line"):
            parse(wrong)
    parsed = parse(["--ds_config", "a.json", "task=cola", "--local_rank=1", "model.name=x"])
    assert parsed.ds_config == Path("a.json") and parsed.overrides == ["task=cola", "model.name=x"]
    assert (ROOT / "launch" / "doctor.py").exists()
