"""Texts chosen by strangers are not markup in a model card, a report or a spreadsheet."""

import json
import re

import pytest
from huggingface_hub import ModelCard

from mat_ds.artifacts.card import CARD, write_card
from mat_ds.artifacts.finished import read_finished
from mat_ds.cli import main
from mat_ds.errors import ExitCode, UserError
from mat_ds.storage.rundir import RunDirectory
from tests.support.heads import finished_run
from tests.support.reported import make_run

HOSTILE = ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[x](javascript:alert(1))",
           "![x](http://h/x.png)", "x\n\n---\nlicense: mit\n---\n# big",
           "a`b`<b>c</b>", "| a | b |", "{{7*7}}", "{% raw %}", "&lt;b&gt;", "\x1b[31mred"]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_of_a_run_are_escaped_in_its_model_card(text, tmp_path):
    folder = finished_run(tmp_path / "run", "cola")
    for name, put in (
        ("environment.json", lambda found: found | {"devices": [text], "data_sha256": text}),
        ("results.json", lambda found: found | {"dev_sha256": text}),
    ):
        found = json.loads((folder / name).read_text())
        found["packages"] = {"mat_ds": text}
        (folder / name).write_text(json.dumps(put(found)))
    write_card(read_finished(folder), folder / "model")
    card = ModelCard.load(folder / "model" / CARD)
    outside = "".join(card.text.split("`")[::2])  # text between backquotes is shown literally
    assert "<" not in outside.replace("<this folder>", "").replace("<file>", "") and "\x1b" not in card.text
    assert not re.search(r"(?<!\\)\]\(", outside) and "\n# big" not in card.text and "license" not in card.data.to_dict()
    assert card.text.count("`") % 2 == 0


def test_texts_of_a_run_are_escaped_in_a_report(tmp_path):
    for number, text in enumerate(HOSTILE):
        run = make_run(tmp_path / "runs" / f"{number}", (0.1, 0.2, 0.3), seed=number, model=text, half="bf16")
        environment = json.loads(run.environment.read_text())
        environment |= {"devices": [text], "git_commit": text}
        run.environment.write_text(json.dumps(environment))
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == ExitCode.OK
    page = (tmp_path / "out" / "index.html").read_text()
    assert not any(tag in page for tag in ("<script", "<img src=x", "<b>", 'javascript:alert(1)"', "\x1b"))
    assert "49" not in page.partition("<h1>")[2].partition("</h1>")[0] and "{{7*7}}" in page
    for picture in (tmp_path / "out").glob("*.svg"):
        assert "<script" not in picture.read_text() and "onerror=alert(1)>" not in picture.read_text()


def test_a_report_shows_nothing_of_linked_files(tmp_path, capsys):
    run = make_run(tmp_path / "run", (0.1, 0.2, 0.3))
    (tmp_path / "secret.json").write_text('{"task": "canary-5c1f"}')
    (run.path / "evaluation").mkdir()
    (run.path / "evaluation" / "robustness.json").symlink_to(tmp_path / "secret.json")
    assert main(["report", str(run.path), "--out", str(tmp_path / "out")]) == ExitCode.USER_ERROR
    assert "canary" not in "".join(capsys.readouterr())
    (run.path / "evaluation" / "robustness.json").unlink()
    (run.model / "config.json").unlink()
    (run.model / "config.json").symlink_to(tmp_path / "secret.json")
    assert main(["report", str(run.path), "--out", str(tmp_path / "out")]) == ExitCode.OK
    assert RunDirectory(run.path).model.is_dir()


def test_results_that_are_not_numbers_are_refused_or_ignored(tmp_path):
    run = finished_run(tmp_path / "run", "cola")
    whole = (run / "results.json").read_text()
    refused = set()
    for number in re.finditer(r'"(\w+)":\s+([\d.e+-]+)(?=[,\s}])', whole):
        for other in ('"1e5"', "true", "null", "9" * 400):
            (run / "results.json").write_text(whole[: number.start(2)] + other + whole[number.end(2) :])
            try:
                write_card(read_finished(run), tmp_path)
            except UserError as error:
                assert "results.json" in str(error)
                refused.add((number[1], other))
    assert {("seconds", '"1e5"'), ("steps", "9" * 400), ("score", "true")} <= refused
