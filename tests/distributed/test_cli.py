"""The command line as users call it: what a run prints, writes, refuses, survives, and leaves behind."""

import json
import os
import re
import signal
import time

import pytest
import torch
import yaml
from mlflow import MlflowClient
from safetensors.torch import load_file
from sklearn.metrics import matthews_corrcoef
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GPT2Config, GPT2ForSequenceClassification

from mat_ds.errors import ExitCode
from mat_ds.models.build import build_tokenizer
from mat_ds.models.options import ModelConfig
from mat_ds.storage.events import read_events
from mat_ds.tasks.demo import rows
from tests.support.launch import run_cli, start_cli
from tests.workers.small_run import steps

pytestmark = pytest.mark.dist

ZERO2 = ("--ds_config", "ds_configs/zero2.json")
SMALL = ("data.train_limit=256", "data.eval_limit=50", "method.delta_steps=1", "method.theta_steps=2")


def scores(run):
    """The results of a run, without times and speeds."""
    measured = {"seconds", "samples_per_second", "tokens_per_second"}
    results = json.loads((run / "results.json").read_text())
    return {name: value for name, value in results.items() if name not in measured}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The default as `make train` runs it, half as long, in passes of 32: (run, finished process, folder of extensions)."""
    folder = tmp_path_factory.mktemp("demo")
    done = run_cli(
        *ZERO2,
        f"output_dir={folder}/run",
        "train.epochs=1",
        "train.micro_batch_size=32",
        "tracking.uri=null",
        ranks=2,
        launcher=True,
        TORCH_EXTENSIONS_DIR=f"{folder}/compiled",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run", done, folder / "compiled"


def test_the_built_in_demo_learns_rules_that_hold_for_unseen_words(demo):
    results = json.loads((demo[0] / "results.json").read_text())
    assert min(results["best"]["score"], results["last"]["score"]) >= 0.6 and results["median_last_half"] >= 0.4


def test_results_have_fixed_keys_and_types(demo):
    results = json.loads((demo[0] / "results.json").read_text())
    types = {
        "task": str, "method": str, "seed": int, "world_size": int, "steps": int, "last": dict, "best": dict,
        "median_last_half": float, "seconds": float, "samples_per_second": float, "tokens_per_second": float,
        "dev_sha256": str, "export": dict, "test": dict, "parameters": dict, "confusion": dict, "calibration": dict,
    }  # fmt: skip
    assert {key: type(value) for key, value in results.items()} == types
    evaluation = {"step": int, "score": float, "validation": dict}
    for which in ("last", "best"):
        assert {key: type(value) for key, value in results[which].items()} == evaluation
    assert results["export"] == {
        "which": "best", "step": results["best"]["step"], "dtype": "float32", "score": results["best"]["score"],
        "score_fp32": results["best"]["score"], "reproduces_reported": True,
    }  # fmt: skip
    counts = results["confusion"]["counts"]["validation"]
    assert results["confusion"]["labels"] == ["unacceptable", "acceptable"]
    assert [sum(row) for row in counts] == [sum(item["label"] == label for item in rows("validation")) for label in (0, 1)]
    assert (results["task"], results["method"], results["steps"], results["world_size"]) == ("demo", "mat", 187, 2)


def test_the_run_directory_holds_the_documented_files(demo):
    run = demo[0]
    assert {path.name for path in run.iterdir()} == {
        "config.yaml", "environment.json", "events.jsonl", "train.log", "results.json", "checkpoints", "model",
        "predictions", "plots", "tracking.json", "tracking.log",
    }  # fmt: skip
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["method"]["delta_gradient"] == "linf" and config["output_dir"] == str(run)
    found = json.loads((run / "environment.json").read_text())
    assert found["world_size"] == 2 and found["packages"]["deepspeed"] and found["deepspeed_config"]["train_batch_size"] == 64
    records = read_events(run / "events.jsonl")
    steps = [record for record in records if record["event"] == "step"]
    assert [record["step"] for record in steps] == list(range(1, 188))
    assert {"loss", "L", "R", "lr", "epoch", "gradient_norm", "samples_per_second", "tokens_per_second"} < set(steps[0])
    assert steps[0]["lr"] == 0.0 and max(record["lr"] for record in steps) == pytest.approx(1e-3)
    assert all(s["loss"] == pytest.approx(s["L"] + s["R"], rel=1e-4) for s in steps)
    assert [path.name for path in (run / "checkpoints").glob("step-*")] == ["step-00000187"]
    assert records[0]["event"] == "start" and records[-1]["step"] == 187 and all(record["time"] > 1e9 for record in records)


def test_the_run_is_in_the_mlflow_file_beside_it(demo):
    client = MlflowClient(f"sqlite:///{demo[0].parent}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("mat_ds").experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 187
    assert run.data.params["optimizer.lr"] == "0.001" and run.data.metrics["eval/matthews_correlation"] >= 0.6
    evaluations = [record for record in read_events(demo[0] / "events.jsonl") if record["event"] == "evaluation"]
    found = [point.value for point in client.get_metric_history(run.info.run_id, "eval/loss")]
    assert found == [record["validation"]["loss"] for record in evaluations]
    assert run.data.metrics["system/rank_1_memory_usage_megabytes"] > 100 and "mat_ds.git_commit" in run.data.tags
    assert "tracking:" not in demo[1].stderr and not (demo[0] / "tracking.log").read_text()


def test_the_progress_bar_shows_loss_both_parts_speed_and_time_left(demo):
    shown = demo[1].stderr
    assert "mat: 100%" in shown and "examples/s" in shown and "187/187" in shown
    best = json.loads((demo[0] / "results.json").read_text())["best"]["score"]
    assert f"best {best:.4f}, " in shown[shown.rindex("mat: 100%") :], "the evaluation after the last step included"
    assert all(f"{part} 0." in shown for part in ("loss", "L", "R"))
    assert re.search(r"\[\d\d:\d\d<\d\d:\d\d", shown), "time gone < time left"
    assert "validation: matthews_correlation" in demo[1].stdout + shown


def test_a_run_compiles_no_extension(demo):
    assert not demo[2].exists() or not list(demo[2].rglob("*"))


def test_the_exported_model_needs_only_transformers(demo):
    folder, reported = demo[0] / "model", json.loads((demo[0] / "results.json").read_text())["best"]["score"]
    weights = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder).eval()
    items = list(rows("validation"))
    with torch.no_grad():
        logits = model(**tokenizer([item["sentence"] for item in items], return_tensors="pt", padding=True)).logits
    assert matthews_corrcoef([item["label"] for item in items], logits.argmax(1)) == pytest.approx(reported, abs=1e-12)
    results, labels = json.loads((demo[0] / "results.json").read_text()), torch.tensor([item["label"] for item in items])
    judged = results["calibration"]["splits"]["validation"]["before"]["nll"], results["best"]["validation"]["loss"]
    loss = float(-logits.log_softmax(-1)[torch.arange(len(items)), labels].mean())
    assert judged == pytest.approx((loss, loss), rel=1e-4) and (folder / "calibration.json").exists()
    assert model.config.id2label == {0: "unacceptable", 1: "acceptable"}


def test_a_finished_run_is_not_overwritten_and_two_ranks_print_an_error_once(demo):
    before = (demo[0] / "results.json").read_bytes()
    done = run_cli(*ZERO2, f"output_dir={demo[0]}", "train.batch_size=31", ranks=2, launcher=True)
    assert done.returncode == ExitCode.USER_ERROR
    everything = done.stdout + done.stderr
    assert everything.count("holds a run already") == 1 and everything.count("is not divisible by the 2 ranks") == 1
    assert everything.count("2 problems found") == 1 and "Traceback" not in everything
    assert (demo[0] / "results.json").read_bytes() == before


def test_a_run_that_diverges_stops_all_ranks_and_keeps_the_last_good_state(tmp_path):
    # The first step's learning rate is 0, the second's is absurd; no loss follows its one update to show it.
    options = ("method.name=vanilla", "optimizer.name=sgd", "optimizer.lr=1e30", "train.save_every=1", "train.max_steps=6",
               "train.batch_size=64", "train.keep_last=1", "data.train_limit=256", "data.eval_limit=50")  # fmt: skip
    done = run_cli(*ZERO2, *options, f"output_dir={tmp_path}/run", ranks=2)
    assert done.returncode == ExitCode.NON_FINITE, done.stderr[-3000:]
    assert "not finite after outer step 1" in done.stderr and "Traceback" not in done.stderr
    kept = tmp_path / "run" / "checkpoints"
    assert (kept / "latest").read_text() == "step-00000001\n" and (kept / "step-00000001" / "manifest.json").exists()
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.slow
def test_a_killed_run_continues_with_the_same_command_and_ends_bit_identical(tmp_path):
    options = (*ZERO2, *SMALL, "train.max_steps=24", "train.save_every=4", "train.resume=auto", "train.eval_per_epoch=2",
               "model.dropout=0.1")  # fmt: skip
    whole, cut, branch = tmp_path / "whole", tmp_path / "cut", tmp_path / "branch"
    done = run_cli(*options, f"output_dir={whole}", ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]

    process = start_cli(*options, f"output_dir={cut}", ranks=2)
    deadline = time.monotonic() + 300
    while not (cut / "checkpoints" / "latest").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (cut / "checkpoints" / "latest").exists() and not (cut / "results.json").exists()
    done = run_cli(*options, f"output_dir={cut}", ranks=2)
    assert done.returncode == 0 and "continuing after step" in done.stdout, done.stderr[-3000:]

    # Continued from an older checkpoint, into a new folder.
    older = ("train.resume=" + str(whole / "checkpoints" / "step-00000020"), f"output_dir={branch}")
    done = run_cli(*options, *older, ranks=2)
    assert done.returncode == 0 and "continuing after step 20" in done.stdout, done.stderr[-3000:]

    expected = load_file(whole / "model" / "model.safetensors")
    for run in (cut, branch):
        found = load_file(run / "model" / "model.safetensors")
        assert all(torch.equal(found[name], expected[name]) for name in found | expected)
        assert scores(run) == scores(whole)
    assert steps(cut) == steps(whole) and steps(branch) == [step for step in steps(whole) if step["step"] > 20]


def test_a_model_folder_and_local_files_give_a_glue_submission(tmp_path):
    """Regression from a folder, with vanilla fine-tuning, and a test split to predict."""
    (tmp_path / "data" / "stsb").mkdir(parents=True)
    for split, count in (("train", 32), ("validation", 10), ("test", 7)):
        pairs = [
            {"sentence1": f"text {i}", "sentence2": f"text {i % 3}", "label": float(i % 6) if split != "test" else -1.0}
            for i in range(count)
        ]
        (tmp_path / "data" / "stsb" / f"{split}.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    options = ("task=stsb", f"data.path={tmp_path}/data", "method.name=vanilla", "train.batch_size=8", "train.epochs=1")
    done = run_cli(*ZERO2, *options, f"output_dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr[-3000:]
    lines = (tmp_path / "run" / "predictions" / "STS-B.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction" and [int(line.split("\t")[0]) for line in lines[1:]] == list(range(7))
    assert all(0 <= float(line.split("\t")[1]) <= 5 for line in lines[1:])
    assert set(json.loads((tmp_path / "run" / "results.json").read_text())["best"]["validation"]) == {
        "pearson",
        "spearman",
        "loss",
    }

    again = (*options, f"model.name={tmp_path}/run/model", "train.export=last", "optimizer.schedule=cosine",
             "train.micro_batch_size=4")  # fmt: skip
    by_layer = ("--ds_config", "ds_configs/zero3.json", "model.gather=layer")
    done = run_cli(*by_layer, *again, f"output_dir={tmp_path}/again", ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "ZeRO-3, gathered layer by layer" in " ".join(done.stdout.split())
    assert json.loads((tmp_path / "again" / "results.json").read_text())["export"]["reproduces_reported"]


def test_a_decoder_trains_under_zero_3_with_activation_checkpointing(tmp_path):
    """A GPT-2 folder, with left padding and a padding token that the model does not have."""
    tokenizer = build_tokenizer(ModelConfig(), [row["sentence"] for row in rows("train")])
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(tmp_path / "gpt2")
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=64)
    GPT2ForSequenceClassification(config).save_pretrained(tmp_path / "gpt2")
    done = run_cli("--ds_config", "ds_configs/zero3.json", *SMALL, f"model.name={tmp_path}/gpt2", "train.max_steps=3",
                   "model.gradient_checkpointing=true", f"output_dir={tmp_path}/run", ranks=2)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "drawn anew: nothing" in done.stdout and "cut at 64 tokens" in done.stdout
    assert "ZeRO-3, gathered whole for passes" in " ".join(done.stdout.split())
    assert all(step["R"] > 0 for step in steps(tmp_path / "run") if "R" in step)
    assert scores(tmp_path / "run")["export"]["reproduces_reported"]


def test_half_precision_exports_fp32_and_reproduces_its_score(tmp_path):
    bf16 = ("--ds_config", "ds_configs/zero2_rtx3090_bf16.json")
    done = run_cli(*bf16, "--local_rank=0", *SMALL, "train.max_steps=8", f"output_dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr[-3000:]
    export = scores(tmp_path / "run")["export"]
    assert export["dtype"] == "bfloat16" and export["reproduces_reported"] and isinstance(export["score_fp32"], float)
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model").dtype == torch.float32
