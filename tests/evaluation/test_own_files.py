"""A model trained on a user's own files is described by its folder, and scored on its own dev split or on another file."""

import json
import re
import shutil

import pytest

from mat_ds.artifacts.card import write_card
from mat_ds.artifacts.described import Description, read_description, write_description
from mat_ds.artifacts.finished import read_finished
from mat_ds.config.validation import read_options
from mat_ds.config.yaml_files import as_yaml, read_yaml
from mat_ds.errors import UserError
from mat_ds.evaluation.options import EvaluationOptions
from mat_ds.evaluation.request import find_subject
from mat_ds.evaluation.subject import _labelled_splits
from mat_ds.runs.load import load_run_config
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tasks.examples import load_task_data
from mat_ds.tasks.own_data import task_of
from tests.support.heads import finished_run

ROWS = [{"title": f"title {i}", "body": f"body {i}", "stars": ["bad", "good"][i % 2]} for i in range(40)]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run as training leaves it behind, as far as its description goes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    options = load_run_config(None, ["data.train=my.jsonl", "data.text=title,body", "data.label=stars", "data.dev_share=0.2"])
    rundir = RunDirectory(tmp_path / "run")
    rundir.model.mkdir(parents=True)
    (rundir.model / "config.json").write_text("{}")
    rundir.config.write_text(as_yaml(options.model_dump(mode="json")))
    write_description(rundir.model, Description(task_of(options.task, options.data), 16))
    return rundir


def scored(model, *options):
    asked = find_subject(str(model), read_options(EvaluationOptions, options))
    return _labelled_splits(asked.spec, asked.data).dev["validation"]


def test_the_model_knows_its_columns_and_labels_without_the_run_and_the_files(run, tmp_path):
    shutil.copytree(run.model, tmp_path / "elsewhere")
    shutil.rmtree(run.path)
    (tmp_path / "my.jsonl").unlink()
    known = read_description(tmp_path / "elsewhere")
    assert (known.spec.name, known.spec.text, known.spec.labels) == ("my", ("title", "body"), ("bad", "good"))
    assert known.spec.metrics == ("accuracy",)


def test_a_run_is_scored_on_the_examples_that_it_was_validated_on(run):
    options = load_run_config(run.config, [])
    assert scored(run.path) == load_task_data(task_of(options.task, options.data), options.data).dev["validation"]
    assert len(scored(run.path)) == 8 and len(scored(run.path, "limit=3")) == 3


def test_another_file_can_be_scored_with_or_without_the_run(run, tmp_path):
    (tmp_path / "new.csv").write_text("title,body,stars,more\nt,b,good,x\n")
    shutil.copytree(run.model, tmp_path / "elsewhere")
    for model in (run.path, tmp_path / "elsewhere"):
        (example,) = scored(model, "data.validation=new.csv", f"output_dir={tmp_path}/out")
        assert (example.texts, example.label) == (("t", "b"), 1)
    (tmp_path / "new.csv").write_text("title,body,stars\nt,b,great\n")
    with pytest.raises(UserError, match=re.escape("none of 0 (bad), 1 (good)")):
        scored(run.path, "data.validation=new.csv")
    with pytest.raises(UserError, match="there is no such file"):
        scored(run.path, "data.validation=absent.csv")
    with pytest.raises(UserError, match="both say what to score on"):
        scored(run.path, "data.validation=new.csv", "data.path=.")


def test_a_revision_is_asked_of_the_dataset_that_it_was_given_for(run):
    run.config.write_text(as_yaml(load_run_config(None, ["task=cola", "data.revision=v1"]).model_dump(mode="json")))
    (run.model / "mat_ds.json").unlink()
    for task, revision in (("cola", "v1"), ("sst2", "v1"), ("anli", None)):
        asked = find_subject(str(run.path), read_options(EvaluationOptions, [f"task={task}"]))
        assert asked.data.revision == revision, task


def test_a_run_is_not_scored_on_its_own_files_as_another_task(run):
    asked = find_subject(str(run.path), read_options(EvaluationOptions, ["task=mnli"]))
    assert asked.spec.name == "mnli" and asked.data.train is None and asked.data.cut_share is None


def test_the_card_says_which_loss_was_trained(tmp_path):
    run = finished_run(tmp_path / "run", "cola")
    write_card(read_finished(run), run / "model")
    assert "Trained on the task's loss" not in (run / "model" / "README.md").read_text()
    config, environment = read_yaml(run / "config.yaml"), json.loads((run / "environment.json").read_text())
    (run / "config.yaml").write_text(as_yaml({**config, "loss": {"class_weights": {"acceptable": 2, "unacceptable": 1}}}))
    (run / "environment.json").write_text(json.dumps({**environment, "loss": "class weights a_b 0.6, yes 2"}))
    write_card(read_finished(run), run / "model")
    card = (run / "model" / "README.md").read_text()
    assert "| `loss.class_weights` | `{'acceptable': 2.0, 'unacceptable': 1.0}` |" in card
    assert "Trained on the task's loss with class weights a\\_b 0.6, yes 2." in card


def test_the_card_says_which_part_of_the_file_was_kept_to_validate_on(tmp_path):
    run = finished_run(tmp_path / "run", "cola")
    config = read_yaml(run / "config.yaml")
    for data, said in (
        ({"train": "my.csv", "dev_share": 0.25}, "(files of the user's own, without the 25% that are kept to validate on)"),
        ({"train": "my.csv", "validation": "dev.csv"}, "(files of the user's own)"),
    ):
        (run / "config.yaml").write_text(as_yaml({**config, "task": "mine", "data": data}))
        write_card(read_finished(run), run / "model")
        assert said in " ".join((run / "model" / "README.md").read_text().split())
