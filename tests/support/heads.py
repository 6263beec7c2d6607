"""Finished runs of each kind of task, made without training: a tiny random model in a run directory."""

import json
import shutil
from functools import cache

import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mat_ds.artifacts.card import write_card
from mat_ds.artifacts.described import Description, write_description
from mat_ds.artifacts.finished import read_finished
from mat_ds.models.build import build_model, build_tokenizer
from mat_ds.models.options import LoraConfig, ModelConfig
from mat_ds.runs.options import RunConfig
from mat_ds.storage.disk import write_json, write_text
from mat_ds.storage.progress import Progress
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tasks.demo import rows
from mat_ds.tasks.registry import TASKS

# A single sentence with two labels, a pair with three, a pair with a score.
HEADS = ("cola", "mnli", "stsb")
MAX_LENGTH = 12


@cache
def sentences(count=12):
    """Texts of all lengths; some are truncated by the model, some hold characters that are special in CSV, TSV or Python."""
    found = [row["sentence"] for row, _ in zip(rows("validation"), range(count), strict=False)]
    found[1:1] = ['"It is golden."', "42", "['a', 'b']", "a, b; \u2028 é", found[0] * 5]
    return found[:count]


def texts_of(task, count=12):
    """`count` tuples of texts, each with one text per text column of the task."""
    here = sentences(count)
    return [(text, *here[::-1][i : i + 1])[: len(TASKS[task].text)] for i, text in enumerate(here)]


def finished_run(folder, task, seed=0, score=0.5, dev="dev", model=None):
    """A run directory as training leaves it behind.

    Args:
        score: of its exported model.
        dev: fingerprint of its dev set.
        model: further options of the model.
    """
    spec, rundir = TASKS[task], RunDirectory(folder)
    options = {"task": task, "seed": seed, "data": {"max_length": MAX_LENGTH}, "model": model or {}}
    write_text(rundir.config, yaml.safe_dump(RunConfig(**options).model_dump(mode="json")))
    tokenizer = build_tokenizer(ModelConfig(), sentences() * 20)
    module = build_model(ModelConfig(), spec, tokenizer, seed).module
    columns = [list(column) for column in zip(*texts_of(task), strict=True)]
    inputs = tokenizer(*columns, truncation=True, max_length=MAX_LENGTH, padding=True, return_tensors="pt")
    with torch.no_grad():  # an untrained model answers the same to everything
        module.classifier.out_proj.weight *= 5
        module.classifier.out_proj.bias -= module.eval()(**inputs).logits.mean(0)
    module.save_pretrained(rundir.model)
    tokenizer.save_pretrained(rundir.model)
    metrics = {split: dict.fromkeys(spec.metrics, score) for split in spec.dev}
    evaluations = [{"step": step, "score": score + shift, **metrics} for step, shift in ((2, -0.2), (4, 0.0), (6, -0.1))]
    write_json(rundir.results, {
        "task": task, "method": "mat", "seed": seed, "world_size": 1,
        **Progress(step=6, evaluations=evaluations, seconds=1.5, samples=192, tokens=2000).results(),
        "export": {"which": "best", "step": 4, "dtype": "float32", "score": score, "score_fp32": score,
                   "reproduces_reported": True},
        "test": {}, "dev_sha256": dev,
    })  # fmt: skip
    write_json(
        rundir.environment,
        {
            "devices": ["cpu"],
            "packages": {"mat_ds": "0.1.0"},
            "data_sha256": "all of it",
            "starts": [{"world_size": 1, "zero_stage": 2}],
        },
    )
    events = [{"event": "start", "step": 0, "time": 1e9}]
    events += [{"event": "evaluation", "time": 1e9 + 10 * found["step"], **found} for found in evaluations]
    events += [{"event": "end", "step": 6, "status": "FINISHED", "time": 1e9 + 60}]
    write_text(rundir.events, "".join(json.dumps(record) + "\n" for record in events))
    write_description(rundir.model, Description(spec, MAX_LENGTH))
    write_card(read_finished(folder), rundir.model)
    return folder


def adapter_run(folder, base):
    """The same on CoLA, for adapters on the headless model in the folder `base`."""
    from mat_ds.models.lora import write_adapter

    finished_run(folder, "cola", model={"name": str(base), "lora": {"r": 4}})
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    model.roberta.save_pretrained(base)
    AutoTokenizer.from_pretrained(folder / "model").save_pretrained(base)
    shutil.rmtree(folder / "model")
    options = ModelConfig(name=str(base), lora=LoraConfig(r=4, target_modules=["query", "value"]))
    tokenizer = build_tokenizer(options, ())
    module = build_model(options, TASKS["cola"], tokenizer, 0).module
    weights = {name: torch.randn_like(value) / 4 for name, value in module.named_parameters() if value.requires_grad}
    write_adapter(module, weights, folder / "model", merge=False)
    tokenizer.save_pretrained(folder / "model")
    write_description(folder / "model", Description(TASKS["cola"], MAX_LENGTH))
    write_card(read_finished(folder), folder / "model")
    return folder


def write_rows(path, spec, texts):
    """Writes the texts to a file in the format of its suffix."""
    import csv

    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(spec.text, row, strict=True))) + "\n" for row in texts))
    elif path.suffix == ".txt":
        path.write_text("".join(f"{row[0]}\n" for row in texts))
    else:
        quoting = {"quoting": csv.QUOTE_NONE, "quotechar": None, "delimiter": "\t"} if path.suffix == ".tsv" else {}
        with path.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n", **quoting).writerows([spec.text, *texts])
    return path


def alike(found, expected):
    """Asserts that two lists of predictions agree, and are not all the same."""
    assert len(found) == len(expected) and len(found) > 1
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys() and one.get("label") == other.get("label")
        assert one.get("probabilities") == pytest.approx(other.get("probabilities"), abs=1e-5)
        assert one.get("score") == pytest.approx(other.get("score"), abs=1e-5)
    assert len({json.dumps(answer) for answer in found}) > 1, "or the test sees nothing"
