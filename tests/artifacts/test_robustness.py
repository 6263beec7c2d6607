"""The card of a model says what evaluations of these very weights found, and what a gate required."""

import json
import re
import shutil

import pytest

from mat_ds.artifacts.described import model_sha256
from mat_ds.artifacts.robustness import robustness_text, with_gate, with_robustness
from mat_ds.cli import main
from mat_ds.errors import ExitCode
from tests.support.heads import finished_run

QUALITY = {"nll": 0.4, "brier": 0.2, "ece": 0.125, "ece_adaptive": 0.1, "aurc": 0.05}
ATTACK = {"examples": 50, "clean": 0.75, "robust_accuracy": 0.25, "flip_rate": 2 / 3, "queries": 12.5}
GATE = {
    "met": False,
    "required": [
        {"condition": "clean >= 0.8", "found": {"validation": 0.75}, "champion": {"validation": 0.7}, "met": False},
        {"condition": "failure_rate(short) <= 1", "found": {"model": None}, "champion": {}, "met": False},
    ],
}
SPLIT = {
    "clean": {"matthews_correlation": 0.5, "accuracy": 0.75, "loss": 0.5},
    "attack": [
        {"radius": radius, "matthews_correlation": 0.1, "accuracy": 0.6, "loss": 1.5, "broken": 9} for radius in (0, 0.01)
    ],
    "noise": {"word_drop": [{"rate": 0.1, "matthews_correlation": 0.3, "accuracy": 0.7, "loss": 0.6, "changed": 40}]},
    "calibration": {"before": QUALITY},
    "shift": {"noise": {"word_drop": [{"rate": 0.1, **QUALITY, "ece": 0.25}]}, "text_attacks": {"characters": QUALITY}},
    "text_attacks": {"characters": ATTACK},
    "masking": {"signs": ["random noise leaves less"]},
    "smoothing": {"sigma": 0.1, "examples": 40, "points": [{"radius": 0.05, "certified_accuracy": 0.625}]},
}
ROWS = (
    "| split | measured | examples | matthews_correlation | accuracy | loss | success | queries |",
    "| validation | as it is | 60 | 0.5000 | 0.7500 | 0.5000 |  |  |",
    "| validation | embeddings, linf 0.01 | 60 | 0.1000 | 0.6000 | 1.5000 |  |  |",
    "| validation | noise, word\\_drop 0.1 | 60 | 0.3000 | 0.7000 | 0.6000 |  |  |",
    "| validation | attack, characters | 50 |  | 0.2500 |  | 0.6667 | 12.5000 |",
    "| validation | as they are | 0.4000 | 0.2000 | 0.1250 | 0.1000 | 0.0500 |",
    "| validation | word\\_drop 0.1 | 0.4000 | 0.2000 | 0.2500 | 0.1000 | 0.0500 |",
    "Signs of gradient masking on validation: random noise leaves less.",
    "| validation | 0.05 | 0.1 | 40 | 0.6250 |",
    "| short | mft | 4 | 1 | 0.2500 |",
    "The gate was **not** met.",
    "| clean &gt;= 0.8 | validation | 0.7500 | 0.7000 | no |",
    "| failure\\_rate(short) &lt;= 1 | model |  |  | no |",
)


def report(**more):
    tests = [{"name": "short", "kind": "mft", "cases": 4, "failures": 1, "failure_rate": 0.25, "shown": []}]
    return {
        "task": "cola", "attack": {"norm": "linf", "radii": [0, 0.01], "steps": 5, "step_size": 0.5},
        "data": {"examples": {"validation": 60}}, "splits": {"validation": SPLIT}, "invariance": {"tests": tests}, "gate": GATE,
        **more,
    }  # fmt: skip


def write(folder, found, name="evaluation"):
    (folder / name).mkdir()
    (folder / name / "robustness.json").write_text(json.dumps(found))


def section(card):
    """The section, whose tables must all have rows of one width."""
    found = re.findall(r"\n(## Robustness\n.*?)\n## ", f"{card}\n## ", re.S)
    assert len(found) == card.count("## Robustness") <= 1
    for table in re.findall(r"(?:^\|.*\n)+", found[0] if found else "", re.M):
        assert len({re.sub(r"\\.", "", row).count("|") for row in table.splitlines()}) == 1, table
    return found[0] if found else ""


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A run with two evaluations of its weights, and one of others, which is newer."""
    run = finished_run(tmp_path_factory.mktemp("evaluated") / "run", "cola")
    on = {"model": {"sha256": model_sha256(run / "model")}}
    old = {**SPLIT, "text_attacks": {"characters": {**ATTACK, "queries": 99.0}, "hotflip": {**ATTACK, "queries": 7.0}}}
    write(run, report(**on, splits={"validation": old}, gate=None))
    write(run, report(**on), "evaluation-2")
    write(
        run,
        report(model={"sha256": "another"}, splits={"validation": {**SPLIT, "clean": {"accuracy": 0.9876}}}),
        "evaluation-10",
    )
    return run


def test_an_exported_copy_has_the_newest_measurement_of_each_kind_of_these_weights(evaluated, tmp_path, capsys):
    before = (evaluated / "model" / "README.md").read_text()
    assert main(["export", str(evaluated), str(tmp_path / "copy")]) == ExitCode.OK
    card = (tmp_path / "copy" / "README.md").read_text()
    lines = section(card).splitlines()
    assert not [row for row in ROWS if row not in lines]
    assert "| validation | attack, hotflip | 50 |  | 0.2500 |  | 0.6667 | 7.0000 |" in lines, "which the newest did not measure"
    assert "99.0" not in card and "0.9876" not in card and (evaluated / "model" / "README.md").read_text() == before
    assert card.index("## Scores") < card.index("## Robustness") < card.index("## Method and settings")

    assert main(["export", str(tmp_path / "copy"), str(tmp_path / "again")]) == ExitCode.OK
    assert (tmp_path / "again" / "README.md").read_text() == card
    write(tmp_path / "copy", report(model={"sha256": model_sha256(tmp_path / "copy")}, gate={**GATE, "met": True}))
    assert main(["export", str(tmp_path / "copy"), str(tmp_path / "third")]) == ExitCode.OK
    assert "The gate was met." in section((tmp_path / "third" / "README.md").read_text())

    (tmp_path / "copy" / "evaluation" / "robustness.json").write_text('{"task": "cola"}')
    assert main(["export", str(tmp_path / "copy"), str(tmp_path / "no")]) == ExitCode.USER_ERROR
    assert "is malformed" in capsys.readouterr().err


def test_a_gate_on_few_examples_does_not_replace_what_was_measured_on_more():
    few = {**SPLIT, "clean": {"accuracy": 0.9876}, "text_attacks": {"characters": {**ATTACK, "examples": 51, "queries": 99.0}}}
    told = robustness_text([report(), report(data={"examples": {"validation": 8}}, splits={"validation": few})])
    assert "0.9876" not in told and "| validation | attack, characters | 51 |" in told and section(told)


def test_other_weights_of_the_run_were_not_evaluated(evaluated):
    card = (evaluated / "model" / "README.md").read_text()
    whole = with_robustness(card, robustness_text([report()]))
    assert section(whole) and with_robustness(whole, "") == card


def test_a_gate_is_added_to_the_section_or_replaces_the_one_before(evaluated):
    card = (evaluated / "model" / "README.md").read_text()
    alone = with_gate(card, report())
    assert not [row for row in ROWS if row not in section(alone).splitlines()]
    again = with_gate(alone, report(gate={**GATE, "met": True}, splits={"validation": {**SPLIT, "clean": {"accuracy": 0.9}}}))
    assert "The gate was met." in again and "**not** met" not in again and "| 0.9000 |" not in again
    assert section(again).count("### The gate") == 1 and again.replace("was met", "was **not** met") == alone
    short = with_gate("# A model\n", report())
    assert section(short) and with_gate(short, report()) == short


def test_names_of_strangers_are_text(evaluated):
    odd = "<b>|\n## Method and settings\n[x](y)"
    found = report(splits={odd: SPLIT}, gate={"met": True, "required": [{"condition": odd, "found": {odd: 1.0}, "met": True}]})
    told = robustness_text([found])
    assert "<b>" not in told and "\n## M" not in told and "[x](y)" not in told and section(told)


def test_an_evaluation_behind_a_link_is_refused(evaluated, tmp_path, capsys):
    run = shutil.copytree(evaluated, tmp_path / "run")
    (run / "evaluation-3").mkdir()
    (run / "evaluation-3" / "robustness.json").symlink_to(evaluated / "evaluation" / "robustness.json")
    assert main(["export", str(run), str(tmp_path / "out")]) == ExitCode.USER_ERROR
    assert "leads out of" in capsys.readouterr().err
