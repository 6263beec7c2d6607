"""Methods and averages through the command line, and the combinations that are refused."""

import json

import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification

from mat_ds.storage.events import read_events
from tests.support.launch import run_cli

pytestmark = pytest.mark.dist

SMALL = [
    "data.train_limit=128",
    "data.eval_limit=64",
    "train.batch_size=32",
    "train.micro_batch_size=8",
    "train.epochs=1",
    "train.eval_per_epoch=2",
    "train.eval_micro_batch_size=64",
    "optimizer.lr=1e-3",
    "train.telemetry_every=2",
]


def lines(run, event):
    return [record for record in read_events(run / "events.jsonl") if record["event"] == event]


def test_an_average_is_scored_beside_the_raw_weights_exported_and_resumed_with_step_sizes_by_layer(tmp_path):
    options = [
        *SMALL,
        "method.name=freelb",
        "data.augment.share=0.5",
        "model.average=uniform",
        "train.export_weights=average",
        "train.save_every=2",
        "optimizer.schedule=constant",
        "optimizer.layer_decay=0.5",
        "optimizer.head_lr=2e-3",
        "model.freeze=[embeddings]",
        "train.resume=auto",
    ]
    exported = []
    for name, stops in (("whole", (4,)), ("broken", (2, 4))):
        run = tmp_path / name
        for stop in stops:
            done = run_cli(
                "--ds_config", "ds_configs/zero3.json", f"output_dir={run}", *options, f"train.max_steps={stop}", ranks=2
            )
            assert done.returncode == 0, done.stderr[-2000:]
        results = json.loads((run / "results.json").read_text())
        assert results["export"]["reproduces_reported"] and results["raw"]["last"]["step"] == results["last"]["step"] == 4
        assert [record["step"] for record in lines(run, "evaluation")] == [2, 4] and "average" in done.stderr + done.stdout
        assert [record["step"] for record in lines(run, "telemetry")] == [1, 3]
        assert all(told in done.stderr + done.stdout for told in ("of them trained (", "0.00025 to 0.002 at its peak"))
        (*_, step), size = lines(run, "step"), results["parameters"]
        assert (step["lr_smallest"], step["lr"], step["lr_largest"]) == (2.5e-4, 1e-3, 2e-3)
        model = AutoModelForSequenceClassification.from_pretrained(run / "model")
        frozen = sum(p.numel() for name, p in model.named_parameters() if ".embeddings." in name)
        assert size["trained"] == size["all"] - frozen and size["all"] == model.num_parameters()
        assert f"{size['trained']:,} of its {size['all']:,} parameters were trained" in (run / "model/README.md").read_text()
        exported.append(model.state_dict())
    assert all(torch.equal(exported[0][key], exported[1][key]) for key in exported[0])


def test_r4fs_export_needs_no_mat_ds(tmp_path):
    done = run_cli("--ds_config", "ds_configs/zero2.json", f"output_dir={tmp_path}/run", *SMALL, "method.name=r4f", ranks=2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "run" / "results.json").read_text())["export"]["reproduces_reported"]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    assert torch.linalg.matrix_norm(model.classifier.out_proj.weight, ord=2).item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("attention, form", [("eager", "exact"), ("sdpa", "finite_difference")])
def test_salt_prints_and_records_which_derivative_it_takes(attention, form, tmp_path):
    done = run_cli(
        "--ds_config",
        "ds_configs/zero2.json",
        f"output_dir={tmp_path}/run",
        *SMALL,
        "method.name=salt",
        f"model.attention={attention}",
        "train.max_steps=2",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert form.replace("_", " ") in done.stdout
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["method"]["derivative"] == form


def test_impossible_options_are_refused_by_name_in_one_message(tmp_path):
    done = run_cli(
        "--ds_config",
        "ds_configs/zero3.json",
        f"output_dir={tmp_path}/run",
        "task=stsb",
        f"data.path={tmp_path}",
        "method.name=salt",
        "method.derivative=exact",
        "train.export_weights=average",
    )
    assert done.returncode == 2
    for words in ("method.derivative = 'exact'", "ZeRO-3", "finite_difference", "train.export_weights"):
        assert words in done.stderr
    done = run_cli("--ds_config", "ds_configs/zero2.json", f"output_dir={tmp_path}/run", "task=stsb", "method.name=r3f")
    assert done.returncode == 2 and "method.name = 'r3f'" in done.stderr and "regression" in done.stderr


def test_useless_passes_and_steps_are_reported_before_training(tmp_path):
    small = ["--ds_config", "ds_configs/zero2.json", f"output_dir={tmp_path}/run", *SMALL]
    done = run_cli(*small, "method.name=rdrop", "--dry_run")
    assert done.returncode == 0, done.stderr[-2000:]
    for words in ("WARNING", "method.name = 'rdrop'", "exactly 0", "model.dropout=0.1"):
        assert words in done.stderr
    done = run_cli(*small, "method.name=salt", "method.delta_gradient=raw", "method.on_invisible=error")
    assert done.returncode == 2 and "method.delta_lr = 0.001" in done.stderr and "delta_gradient=linf" in done.stderr
    assert not (tmp_path / "run").exists()
