"""`mat-ds prepare` of revisions of the hub, and of a user's own files."""

import shlex

import pytest

from tests.commands.test_prepare import COMMIT, from_hub, prepare, problems, run, same  # noqa: F401
from tests.conftest import sentence
from tests.support.printed_examples import check
from tests.tasks.test_bad_rows import lines

pytestmark = pytest.mark.usefixtures("offline")


def test_a_revision_is_asked_of_the_hub_for_every_part_and_its_commit_is_recorded(request, tmp_path):
    asked = request.getfixturevalue("from_hub")
    options = ("task=cola", "model.name=somebody/bert", "model.revision=v1.0", "data.revision=refs/pr/2", "data.max_length=12")
    setup = run(*options)
    assert {name for name in asked if name.startswith(("somebody", "nyu-mll"))} == {
        "somebody/bert@v1.0",
        "nyu-mll/glue@refs/pr/2",
    }
    assert setup.data.examples.commits == {"nyu-mll/glue": COMMIT}
    prepare(tmp_path / "out", *options)
    prepared = run("task=cola", "data.max_length=12", f"data.path={tmp_path}/out", f"model.name={tmp_path}/out/model")
    assert same(setup, prepared)
    wrong = problems(
        "task=cola", f"data.path={tmp_path}/out", f"model.name={tmp_path}/out/model", "data.revision=v1", "model.revision=v1"
    )
    assert {"data.revision", "model.revision"} <= wrong.keys()


def test_a_run_on_own_files_is_prepared_and_trained_without_them(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"title": sentence(i), "body": sentence(i + 1), "stars": i % 3} for i in range(40)]
    (tmp_path / "my.jsonl").write_bytes(lines(*rows))
    options = ("data.train=my.jsonl", "data.text=title,body", "data.label=stars", "data.max_length=16", "method.name=vanilla")
    source = run(*options)
    assert (source.options.run.task, source.data.examples.spec.labels) == ("my", ("0", "1", "2"))
    prepare("out", *options)
    words = check(shlex.split(capsys.readouterr().out.splitlines()[-1]))
    (tmp_path / "my.jsonl").unlink()
    stored = run(*words[2:])
    assert same(source, stored)
    assert "task my: text" in problems(*words[2:], "data.text=title")
    assert "data.dev_share" in problems(*words[2:], "data.dev_share=0.3")
    (tmp_path / "other.jsonl").write_bytes(lines(*rows))
    for task in ("my", "other"):
        assert "data.train" in problems(*words[2:], "data.train=other.jsonl", f"task={task}")
