"""Files written at the end: GLUE submissions and dev predictions."""

import json

import pytest
import torch

from mat_ds.evaluation.scores import Outcome
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tasks.example import Example
from mat_ds.tasks.examples import dev_fingerprint
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.registry import TASKS
from mat_ds.training.finish import write_dev_predictions, write_predictions

# The file names that GLUE's server expects, and the tasks with label names.
FILES = {
    "cola": {"test": "CoLA.tsv"},
    "sst2": {"test": "SST-2.tsv"},
    "mrpc": {"test": "MRPC.tsv"},
    "qqp": {"test": "QQP.tsv"},
    "stsb": {"test": "STS-B.tsv"},
    "mnli": {"test_matched": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv"},
    "qnli": {"test": "QNLI.tsv"},
    "rte": {"test": "RTE.tsv"},
    "wnli": {"test": "WNLI.tsv"},
}
WORDS = {"mnli": "contradiction", "qnli": "not_entailment", "rte": "not_entailment"}


@pytest.mark.parametrize("task", FILES)
def test_predictions_are_written_in_glues_format(task, tmp_path):
    spec = TASKS[task]
    outputs = kind_of(spec).outputs
    last = torch.nn.functional.one_hot(torch.tensor([outputs - 1, 0]), outputs).float()
    logits = torch.tensor([[7.0], [-1.0]]) if spec.kind == "regression" else last
    for split, name in FILES[task].items():
        write_predictions(spec, split, logits, [Example(("a",), None)] * 2, RunDirectory(tmp_path))
        lines = (tmp_path / "predictions" / name).read_text().splitlines()
        assert lines[0] == "index\tprediction"
        expected = ("5.000", "0.000") if task == "stsb" else (WORDS.get(task, "1"), "entailment" if task in WORDS else "0")
        assert lines[1:] == [f"0\t{expected[0]}", f"1\t{expected[1]}"]


def test_dev_predictions_are_written_with_the_gold_labels(tmp_path):
    dev = {"validation": [Example(("a",), 1), Example(("b",), 0)]}
    found = {"validation": Outcome(torch.tensor([[0.0, 3.0], [-1.0, 1.0]]), torch.zeros(2), None)}
    write_dev_predictions(TASKS["cola"], found, dev, RunDirectory(tmp_path))
    found = [json.loads(line) for line in (tmp_path / "predictions" / "validation.jsonl").read_text().splitlines()]
    assert [(line["index"], line["label"], line["gold"]) for line in found] == [
        (0, "acceptable", "acceptable"),
        (1, "acceptable", "unacceptable"),
    ]
    assert found[0]["probabilities"]["acceptable"] == pytest.approx(0.9526, abs=1e-4)


def test_a_dev_fingerprint_depends_on_examples_labels_and_metrics():
    spec, dev = TASKS["cola"], {"validation": [Example(("a",), 1), Example(("b",), 0)]}
    others = [
        dev_fingerprint(spec, {"validation": dev["validation"][:1]}),
        dev_fingerprint(spec, {"validation": [Example(("a",), 0), Example(("b",), 0)]}),
        dev_fingerprint(spec.model_copy(update={"metrics": ("accuracy",)}), dev),
        dev_fingerprint(spec.model_copy(update={"labels": spec.labels[::-1]}), dev),
    ]
    assert len({dev_fingerprint(spec, dev), *others}) == 5 and dev_fingerprint(spec, {**dev}) == dev_fingerprint(spec, dev)
