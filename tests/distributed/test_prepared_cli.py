"""Training on a prepared folder through the command line: the same run to the last bit, and no network."""

import json
import os
import socket
import sys

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.test_cli import scores
from tests.models.test_families import save
from tests.support.launch import ROOT, environment, run_cli
from tests.support.processes import ADDRESS, run
from tests.tasks.test_bad_rows import lines, write
from tests.workers.small_run import steps

pytestmark = pytest.mark.dist

# Python runs this at the start of every process. It records every host name looked up and every connection.
WATCH = """
import os, socket
def note(what):
    with open(os.environ["ASKED"], "a") as file:
        file.write(f"{what}\\n")
def watch(owner, name):
    original = getattr(owner, name)
    def noted(*arguments, **more):
        note([argument for argument in arguments if isinstance(argument, (str, bytes, tuple))])
        return original(*arguments, **more)
    setattr(owner, name, noted)
watch(socket, "getaddrinfo")
watch(socket.socket, "connect")
note("watched")
"""


def test_two_ranks_on_prepared_data_repeat_the_run_on_the_files_without_a_network(tmp_path):
    for split, count in (("train", 64), ("validation", 22), ("test", 5)):
        bad = ["oops", {"sentence": " ", "label": 1}] if split == "train" else []
        rows = [{"sentence": f"letter{i % 7} {'word ' * (i % 5)}\u2028", "label": i % 2} for i in range(count)]
        write(tmp_path, f"raw/cola/{split}.jsonl", lines(*bad, *rows))
    save(tmp_path / "model", "bert", pad_token="<pad>", eos_token="</s>")
    options = (
        "task=cola", f"model.name={tmp_path}/model", "data.bad_rows=skip", "data.max_length=16", "data.train_limit=60",
        "data.group_by_length=true", "model.dropout=0.1", "optimizer.lr=1e-3", "train.batch_size=16", "train.max_steps=7",
        "train.micro_batch_size=4", "train.telemetry_every=3", "train.eval_per_epoch=2", "method.delta_steps=1",
        "method.theta_steps=2",
    )  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "mat_ds.cli",
        "prepare",
        str(tmp_path / "out"),
        *options,
        f"data.path={tmp_path}/raw",
    ]
    done = run(command, 600, cwd=tmp_path, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"data.path={tmp_path}/out model.name={tmp_path}/model" in done.stdout.splitlines()[-1]

    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    watched = {"PYTHONPATH": f"{tmp_path}/watch:{ROOT}", "ASKED": str(tmp_path / "asked")}
    ds_config, out = ("--ds_config", "ds_configs/zero2.json"), {}
    for source in ("raw", "out"):
        done = run_cli(
            *ds_config,
            *options,
            f"data.path={tmp_path}/{source}",
            f"output_dir={tmp_path}/{source}-run",
            ranks=2,
            **(watched if source == "out" else {}),
        )
        assert done.returncode == 0, done.stderr[-3000:]
        out[source] = done.stdout
    assert "skipped    cola/train: 1 of" in out["raw"] and "corrupt line" in out["raw"] and "blank text" in out["out"]
    one, other = (tmp_path / f"{source}-run" for source in ("raw", "out"))
    assert steps(one) == steps(other) and scores(one) == scores(other) and len(steps(one)) > 7
    assert (one / "predictions" / "CoLA.tsv").read_bytes() == (other / "predictions" / "CoLA.tsv").read_bytes()
    weights = [load_file(run / "model" / "model.safetensors") for run in (one, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0] | weights[1])
    found = [json.loads((run / "environment.json").read_text()) for run in (one, other)]
    assert found[0]["data_sha256"] == found[1]["data_sha256"]
    assert [each["skipped"] for each in found] == [{"cola/train": {"corrupt line": 1, "blank text": 1}}] * 2
    asked = (tmp_path / "asked").read_text().splitlines()
    here = ("watched", "localhost", "127.0.0.1", "::1", socket.gethostname(), os.environ[ADDRESS])
    assert asked.count("watched") >= 2 and not [line for line in asked if not any(name in line for name in here)]
