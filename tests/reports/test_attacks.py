"""Attacks on texts in a report: means over seeds, the newest evaluation, changed texts that cannot do harm."""

import csv
import json

import pytest

from mat_ds.cli import main
from mat_ds.errors import ExitCode
from mat_ds.reports.attacks import difference
from mat_ds.reports.figures import _curves
from tests.support.reported import attack, make_run

BEFORE = {"nll": 0.4, "brier": 0.2, "ece": 0.1, "ece_adaptive": 0.1, "aurc": 0.1}
HOSTILE = "<script>alert(1)</script> \u202e $\\frac{ =1+1"


def attacked(run, flip_rate, folder="evaluation", ece=0.3):
    attack(run, "linf", (0.8, 0.5, 0.1), folder)
    path = run.path / folder / "robustness.json"
    report = json.loads(path.read_text())
    shown = [{"row": 3, "label": "acceptable", "texts": ["good"], "changed": [HOSTILE * 20], "queries": 4}]
    point = {"examples": 50, "clean": 0.8, "robust_accuracy": 0.8 * (1 - flip_rate), "flip_rate": flip_rate, "queries": 9.0}
    report["splits"]["validation"] |= {
        "text_attacks": {"benign_words": {**point, "shown": shown}},
        "calibration": {"before": BEFORE},
        "shift": {"noise": {"word_drop": [{"rate": 0.1, **BEFORE}]}, "text_attacks": {"benign_words": {**BEFORE, "ece": ece}}},
    }
    path.write_text(json.dumps(report))


def checked(run, signs, certified, met, folder="evaluation"):
    attack(run, "linf", (0.8, 0.5, 0.1), folder)
    path = run.path / folder / "robustness.json"
    report = json.loads(path.read_text())
    points = [{"radius": 0.1, "certified_accuracy": certified, "abstained": 1, "examples": 9}]
    report["splits"]["validation"] |= {
        "masking": {"signs": signs, "points": []},
        "smoothing": {"sigma": 0.25, "examples": 9, "points": points},
    }
    report["invariance"] = {"tests": [{"name": "names", "kind": "same", "cases": 4, "failures": 1, "failure_rate": 0.25}]}
    report["gate"] = {"met": met, "required": [{"condition": "clean >= 0.5", "found": {"validation": 0.8}, "met": met}]}
    path.write_text(json.dumps(report))


def rows(folder, name):
    with (folder / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_attacks_are_means_over_seeds_of_the_newest_evaluation_and_texts_are_shown_as_text(tmp_path, capsys):
    for seed, rate in ((0, 0.5), (1, 0.25)):
        run = make_run(tmp_path / "runs" / str(seed), (0.1, 0.2, 0.3), seed)
        attacked(run, 0.9)
        attacked(run, rate, "evaluation-2", ece=rate)
    make_run(tmp_path / "runs" / "plain", (0.1, 0.2, 0.3), name="vanilla")
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == ExitCode.OK, capsys.readouterr().err
    (row,) = rows(tmp_path / "out", "attacks")
    assert [float(row[key]) for key in ("clean", "robust_accuracy", "flip_rate", "queries")] == pytest.approx([80, 50, 37.5, 9])
    assert {row["texts"]: float(row["ece"]) for row in rows(tmp_path / "out", "shift")} == {
        "as they are": 0.1, "word_drop 0.1": 0.1, "benign_words": 0.375
    }  # fmt: skip
    assert (tmp_path / "out" / "cola-attacks.svg").exists()
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and "\u202e" not in page and "\\u202e" in page
    assert [row["text"] for row in rows(tmp_path / "out", "changed-texts")] == ["good"]


def test_signs_of_masking_certificates_behaviour_and_the_gate_are_told_of_all_seeds(tmp_path, capsys):
    for seed, signs, certified, met in ((0, ["random noise finds more"], 0.5, True), (1, [], 0.25, False)):
        run = make_run(tmp_path / "runs" / str(seed), (0.1, 0.2, 0.3), seed)
        checked(run, ["an older sign"], 0.9, True)
        checked(run, signs, certified, met, "evaluation-2")
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == ExitCode.OK, capsys.readouterr().err
    assert {(row["split"], row["check"]): row["found"] for row in rows(tmp_path / "out", "checks")} == {
        ("validation", "signs of gradient masking"): "random noise finds more",
        ("validation", "certified accuracy, sigma 0.25, L2 radius 0.1"): "37.5",
        ("model", "failures of the test names"): "25.0",
        ("all", "gate: clean >= 0.5"): "met by 1 of 2 seeds",
    }
    assert "random noise finds more" in (tmp_path / "out" / "index.html").read_text()


def test_a_damaged_attack_is_refused_and_an_older_report_without_any_is_read(tmp_path, capsys):
    run = make_run(tmp_path / "runs" / "one", (0.1, 0.2, 0.3))
    attack(run, "linf", (0.8, 0.5, 0.1))
    assert main(["report", str(run.path), "--out", str(tmp_path / "out")]) == ExitCode.OK
    assert "left out: attacks on texts" in capsys.readouterr().out
    attacked(run, 0.5, "evaluation-2")
    path = run.path / "evaluation-2" / "robustness.json"
    path.write_text(path.read_text().replace('"clean": 0.8', '"clean": "much"'))
    assert main(["report", str(run.path), "--out", str(tmp_path / "out")]) == ExitCode.USER_ERROR
    assert "malformed at splits.validation" in capsys.readouterr().err


def test_what_cannot_be_seen_in_a_changed_text_is_named():
    assert difference("a good film , really", "a g\u043eod film , really") == "good → g\\u043eod"
    assert difference("a good film", "by the way a film \u200b!") == "+ by the way; - good; + \\u200b!"
    assert difference("ein schöner Film", "ein s c h ö n e r Film") == "schöner → s c h ö n e r"
    assert difference("same", "same") == ""


@pytest.mark.parametrize(
    ("names", "axis", "scale"),
    [  # as the kinds of tasks report them
        (("seqeval_f1", "exact_match", "loss"), "exact match, %", 100),
        (("squad_em", "squad_f1", "loss"), "SQuAD exact match, %", 100),
        (("perplexity", "accuracy", "loss"), "accuracy, %", 100),
        (("pearson", "spearman", "mse"), "mean squared error", 1),
        (("loss",), "loss", 1),
    ],
)
def test_curves_show_what_the_kind_of_task_measures(names, axis, scale, tmp_path):
    run = make_run(tmp_path / "runs" / "one", (0.1, 0.2, 0.3))
    attack(run, "linf", (0.8, 0.5, 0.1), names=names)
    assert main(["report", str(run.path), "--out", str(tmp_path / "out")]) == ExitCode.OK
    assert axis in (tmp_path / "out" / "cola-robustness.svg").read_text()
    told, curves = _curves(json.loads((run.path / "evaluation" / "robustness.json").read_text()))
    values = [value for _, value in next(iter(curves.values()))]
    assert told == axis and values == pytest.approx([0.8 * scale, 0.5 * scale, 0.1 * scale])
