"""Adapters from the command line to the exported files, which plain peft and transformers load."""

import json
import shutil

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, RobertaConfig, RobertaModel

from mat_ds.cli import main
from mat_ds.errors import ExitCode
from mat_ds.models.build import build_tokenizer
from mat_ds.models.options import ModelConfig
from mat_ds.storage.checkpoints import checkpoints_of
from mat_ds.storage.integrity import verify_checkpoint
from mat_ds.tasks.demo import rows
from tests.support.launch import run_cli

pytestmark = pytest.mark.dist

RECIPE = """
task: demo
model: {name: %s, dropout: 0.1, lora: {r: 4, alpha: 8, target_modules: [query, value, intermediate.dense]}}
data: {train_limit: 256, eval_limit: 100}
optimizer: {lr: 5e-3}
train: {max_steps: 8, batch_size: 32, micro_batch_size: 8, eval_per_epoch: 1, save_every: 4}
method: {name: mat, delta_steps: 1, theta_steps: 2}
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """An encoder without a head, and a recipe that puts adapters on it."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = build_tokenizer(ModelConfig(), [row["sentence"] for row in rows("train")])
    tokenizer.save_pretrained(folder / "encoder")
    torch.manual_seed(0)
    RobertaModel(
        RobertaConfig(
            vocab_size=len(tokenizer),
            hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=96,
            max_position_embeddings=66,
            pad_token_id=1,
            initializer_range=0.1,
        )
    ).save_pretrained(folder / "encoder")
    (folder / "recipe.yaml").write_text(RECIPE % (folder / "encoder"))
    return folder


def score(model, folder):
    """Matthews correlation of a model on the run's dev split."""
    from sklearn.metrics import matthews_corrcoef

    tokenizer = AutoTokenizer.from_pretrained(folder)
    items = list(rows("validation"))[:100]
    with torch.no_grad():
        logits = model.eval()(**tokenizer([item["sentence"] for item in items], return_tensors="pt", padding=True)).logits
    return matthews_corrcoef([item["label"] for item in items], logits.argmax(1))


def with_peft(folder, base):
    """Loads the adapters in `folder` as peft's manual says."""
    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(base, config=config, dtype=torch.float32)
    return peft.PeftModel.from_pretrained(model, folder)


def train(base, run, stage, *more, adapters="adapters"):
    """Trains on two ranks; returns the best score and the model folder."""
    done = run_cli(
        "--ds_config", f"ds_configs/zero{stage}.json", "--recipe", base / "recipe.yaml", *more, f"output_dir={run}", ranks=2
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "reproduces its score" in done.stdout and f"{adapters} of rank 4" in done.stdout and "of them trained" in done.stdout
    return json.loads((run / "results.json").read_text())["best"]["score"], run / "model"


def test_adapters_are_exported_for_plain_peft_and_a_continued_run_ends_with_the_same_ones(base, tmp_path):
    reported, model = train(base, tmp_path / "run", 2)
    assert {"adapter_model.safetensors", "adapter_config.json", "config.json", "tokenizer.json"} <= {
        f.name for f in model.iterdir()
    }
    saved = load_file(model / "adapter_model.safetensors")
    assert {t.dtype for t in saved.values()} == {torch.float32} and all(t.numel() for t in saved.values())
    assert sum("lora_" in name for name in saved) == 12 and sum("classifier" in name for name in saved) == 4 == len(saved) - 12
    found = with_peft(model, base / "encoder")
    assert found.config.id2label == {0: "unacceptable", 1: "acceptable"}
    assert score(found, model) == pytest.approx(reported, abs=1e-12) != 0

    train(base, tmp_path / "again", 2, f"train.resume={tmp_path}/run/checkpoints/step-00000004")
    again = load_file(tmp_path / "again" / "model" / "adapter_model.safetensors")
    assert again.keys() == saved.keys() and all(torch.equal(again[name], saved[name]) for name in saved)


def test_a_merged_average_under_zero_3_needs_only_transformers_and_pissas_adapters_fit_the_base_as_it_is(base, tmp_path):
    reported, model = train(
        base,
        tmp_path / "run",
        3,
        "model.lora.variant=pissa",
        "model.lora.merge=true",
        "model.gradient_checkpointing=true",
        "model.average=ema",
        "model.average_decay=0.2",
        "train.export_weights=average",
        adapters="PiSSA adapters",
    )
    whole = AutoModelForSequenceClassification.from_pretrained(model)
    assert whole.dtype == torch.float32 and not [name for name, _ in whole.named_parameters() if "lora" in name]
    assert score(whole, model) == pytest.approx(reported, abs=1e-12) != 0
    saved = load_file(model / "adapter" / "adapter_model.safetensors")
    assert len(saved) == 16 and all(t.numel() for t in saved.values())
    plain = with_peft(model / "adapter", base / "encoder")
    assert score(plain, model) == pytest.approx(reported, abs=1e-12)
    # A checkpoint holds them as they were trained, relative to what they leave of the base.
    again = ("export", str(tmp_path / "run"), str(tmp_path / "again"), "--weights", "average", "--merge")
    assert main([*again]) == ExitCode.OK
    for name, value in AutoModelForSequenceClassification.from_pretrained(tmp_path / "again").named_parameters():
        torch.testing.assert_close(value, whole.get_parameter(name), rtol=1e-5, atol=1e-6)


def test_a_run_continues_with_the_same_frozen_weights_even_from_another_folder(base, tmp_path, capsys):
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    shutil.copytree(base / "encoder", first)
    options = (
        "--ds_config",
        "ds_configs/zero1.json",
        "--recipe",
        base / "recipe.yaml",
        f"output_dir={tmp_path}/run",
        "train.resume=auto",
        "train.export=best",
    )
    done = run_cli(*options, f"model.name={first}", "train.max_steps=4")
    assert done.returncode == 0, done.stderr[-3000:]
    model = RobertaModel.from_pretrained(first)
    model.encoder.layer[0].output.dense.bias.data[0] += 1
    model.save_pretrained(other)
    AutoTokenizer.from_pretrained(base / "encoder").save_pretrained(other)
    done = run_cli(*options, f"model.name={other}")
    assert done.returncode == 2 and "frozen weights are not those" in done.stderr, done.stderr[-3000:]
    first.rename(second)
    done = run_cli(*options, f"model.name={second}")
    assert done.returncode == 0 and "reproduces its score" in done.stdout, done.stderr[-3000:]
    run = tmp_path / "run"
    assert json.loads((run / "model" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(second)
    assert all(verify_checkpoint(checkpoint) is None for checkpoint in checkpoints_of(run))

    (tmp_path / "in.txt").write_text("the key is golden\n")
    assert main(["predict", str(run), str(tmp_path / "in.txt")]) == ExitCode.OK
    second.rename(tmp_path / "third")
    for command in (
        ["predict", str(run), str(tmp_path / "in.txt")],
        ["export", str(run), str(tmp_path / "out"), "--merge"],
        ["evaluate", str(run)],
    ):
        assert main(command) == ExitCode.USER_ERROR
        told = capsys.readouterr().err
        assert str(second) in told and str(run / "model" / "adapter_config.json") in told and "base_model_name_or_path" in told
