"""`mat-ds export` of a checkpoint gives the weights that training itself exports."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mat_ds.cli import main
from mat_ds.errors import ExitCode
from tests.support.heads import finished_run
from tests.support.launch import run_cli

pytestmark = pytest.mark.dist

OPTIONS = (
    "train.max_steps=4",
    "data.train_limit=256",
    "data.eval_limit=40",
    "train.export=last",
    "model.average=ema",
    "train.export_weights=average",
    "train.batch_size=16",
    "train.micro_batch_size=4",
)


def train(run, *more, ranks=2):
    done = run_cli("--ds_config", "ds_configs/zero2.json", *OPTIONS, *more, f"output_dir={run}", ranks=ranks)
    assert done.returncode == 0, done.stderr[-3000:]


def export(run, out, *options):
    assert main(["export", str(run), str(out), *options]) == ExitCode.OK
    return load_file(next(path for path in out.iterdir() if path.suffix == ".safetensors"))


def test_exporting_a_checkpoint_of_a_whole_model_with_a_folded_head(tmp_path):
    """Predictions of `mat-ds predict` on the dev split have the score that the run reported."""
    run = tmp_path / "run"
    train(run, "method.name=r4f", "model.average_decay=0.5")
    exported = load_file(run / "model" / "model.safetensors")
    average = export(run, tmp_path / "average", "--weights", "average")
    assert average.keys() == exported.keys() and all(torch.equal(average[name], exported[name]) for name in exported)
    raw = export(run / "checkpoints" / "step-00000004", tmp_path / "raw", "--weights", "raw")
    assert not torch.equal(raw["classifier.dense.weight"], exported["classifier.dense.weight"])
    assert torch.linalg.matrix_norm(raw["classifier.out_proj.weight"], ord=2) == pytest.approx(1, abs=1e-5)
    assert "The raw weights of the run's step-00000004" in (tmp_path / "raw" / "README.md").read_text()
    scored(run, tmp_path)


def scored(run, folder):
    from sklearn.metrics import matthews_corrcoef

    from mat_ds.tasks.demo import rows
    from mat_ds.tasks.registry import TASKS

    dev = [row for _, row in zip(range(40), rows("validation"), strict=False)]
    (folder / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in dev))
    out = folder / "answers.jsonl"
    out.unlink(missing_ok=True)
    assert main(["predict", str(run), str(folder / "dev.jsonl"), "--out", str(out)]) == ExitCode.OK
    found = [TASKS["demo"].labels.index(json.loads(line)["label"]) for line in out.read_text().splitlines()]
    reported = json.loads((run / "results.json").read_text())
    assert matthews_corrcoef([row["label"] for row in dev], found) == reported["export"]["score"]


def test_exporting_a_checkpoint_of_adapters_merged_or_not(tmp_path):
    base = finished_run(tmp_path / "made", "cola") / "model"
    AutoModelForSequenceClassification.from_pretrained(base).roberta.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "base")
    run = tmp_path / "run"
    lora = (f"model.name={tmp_path}/base", "model.lora.target_modules=[query,value]", "optimizer.lr=1e-2")
    train(run, "method.name=vanilla", *lora, ranks=None)
    exported = load_file(run / "model" / "adapter_model.safetensors")
    average = export(run, tmp_path / "average", "--weights", "average")
    assert average.keys() == exported.keys() and all(torch.equal(average[name], exported[name]) for name in exported)
    merged = export(run, tmp_path / "merged", "--weights", "average", "--merge")
    expected = export(run, tmp_path / "expected", "--merge")
    assert merged.keys() == expected.keys() and all(torch.equal(merged[name], expected[name]) for name in merged)
    raw = export(run, tmp_path / "raw", "--weights", "raw")
    assert any(not torch.equal(raw[name], exported[name]) for name in exported)
