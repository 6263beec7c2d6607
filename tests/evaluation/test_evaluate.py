"""What `mat-ds evaluate` refuses before ranks connect, and what it reads from a folder."""

import json
import shutil

import pytest
import yaml

from mat_ds.artifacts.calibrated import write_temperature
from mat_ds.cli import COMMANDS, main
from mat_ds.commands.evaluate import parse
from mat_ds.errors import ExitCode, UserError
from mat_ds.evaluation.options import AttackOptions, EvaluationOptions
from mat_ds.evaluation.request import find_subject
from mat_ds.evaluation.subject import load_subject
from mat_ds.evaluation.table import calibration_rows
from mat_ds.models.build import build_model, build_tokenizer
from mat_ds.models.options import ModelConfig
from mat_ds.tasks.registry import TASKS


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = build_tokenizer(ModelConfig(), ["the key near the cabinets is golden."] * 50)
    build_model(ModelConfig(), TASKS["demo"], tokenizer, 0).module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def subject(folder, *overrides):
    parsed, options = parse([str(folder), *overrides])
    return load_subject(find_subject(parsed.model, options), options)


def refused(folder, *overrides):
    with pytest.raises(UserError) as error:
        subject(folder, *overrides)
    return str(error.value)


def test_a_model_folder_needs_a_task_and_only_labelled_splits_are_read(model_folder):
    assert "pass task=<task>" in refused(model_folder)
    found = subject(model_folder, "task=demo", "limit=7", "data.max_length=16")
    assert {split: len(examples) for split, examples in found.splits.items()} == {"validation": 7}
    assert found.max_length == 16 and not found.model.training
    assert subject(model_folder, "task=demo").max_length == 128, "what model and tokenizer take"


def test_a_run_folder_gives_task_data_and_limit(model_folder, tmp_path):
    config = {"task": "demo", "data": {"eval_limit": 5, "max_length": 20}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert "has not exported a model" in refused(tmp_path)
    (tmp_path / "model").symlink_to(model_folder)
    found = subject(tmp_path)
    assert (found.spec.name, len(found.splits["validation"]), found.max_length) == ("demo", 5, 20)
    assert found.model_sha256 == subject(model_folder, "task=demo").model_sha256
    assert len(subject(tmp_path, "limit=6").splits["validation"]) == 6


def test_anli_is_scored_by_round_and_cola_without_its_hidden_test(tmp_path, model_folder):
    rows = {"anli": {"premise": "a", "hypothesis": "b", "label": 1}, "cola": {"sentence": "a", "label": 1}}
    for task, row in rows.items():
        (tmp_path / task).mkdir()
        for split in (*TASKS[task].dev, *TASKS[task].test):
            (tmp_path / task / f"{split}.jsonl").write_text(json.dumps(row))
    three = tmp_path / "three"
    tokenizer = build_tokenizer(ModelConfig(), ["some text"] * 50)
    build_model(ModelConfig(), TASKS["anli"], tokenizer, 0).module.save_pretrained(three)
    tokenizer.save_pretrained(three)
    data = f"data.path={tmp_path}"
    assert list(subject(three, "task=anli", data).splits) == [f"{s}_r{i}" for s in ("dev", "test") for i in (1, 2, 3)]
    assert list(subject(model_folder, "task=cola", data).splits) == ["validation"]
    assert "has 3 outputs, the model 2" in refused(model_folder, "task=anli", data)


def test_labels_in_another_order_and_models_without_a_head_are_refused(model_folder, tmp_path):
    (tmp_path / "turned.yaml").write_text("{text: [sentence], labels: [acceptable, unacceptable]}")
    (tmp_path / "turned").mkdir()
    (tmp_path / "turned" / "validation.jsonl").write_text('{"sentence": "a", "label": 1}')
    options = (f"task={tmp_path}/turned.yaml", f"data.path={tmp_path}")
    assert "labels: [unacceptable, acceptable]" in refused(model_folder, *options)
    bare = tmp_path / "bare"
    model = build_model(ModelConfig(), TASKS["demo"], build_tokenizer(ModelConfig(), ["a"]), 0).module
    model.roberta.save_pretrained(bare)
    build_tokenizer(ModelConfig(), ["a"]).save_pretrained(bare)
    assert "without a classification head" in refused(bare, "task=demo")


def test_all_errors_are_reported_at_once_with_exit_code_2(model_folder, tmp_path, capsys):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "robustness.json").write_text("{}")
    assert main(["evaluate", str(model_folder), "task=nonsense", f"output_dir={taken}"]) == ExitCode.USER_ERROR
    told = capsys.readouterr().err
    assert "2 problems" in told and "there is no such task" in told and "exists and is not empty" in told
    wrong = ["attack.step=3", "attack.radii=[-1]", "noise.rates=[2]", "noise.kinds=[typo]", "limit=0", "seed"]
    assert main(["evaluate", str(model_folder), *wrong]) == ExitCode.USER_ERROR
    told = capsys.readouterr().err
    assert "6 problems" in told and "did you mean 'steps'" in told and all(word in told for word in ("radii", "rates", "kinds"))
    assert main(["evaluate"]) == main(["evaluate", str(tmp_path / "nowhere")]) == ExitCode.USER_ERROR
    told = capsys.readouterr().err
    assert "mat-ds evaluate runs/cola" in told and "there is no such folder" in told


def test_options_of_the_embedding_attack_that_do_not_fit_the_task_are_refused_before_the_model_loads(model_folder):
    wrong = ("attack.loss=dlr", "attack.checks=true", "attack.radii=[]", "smoothing.sigma=0.1", "smoothing.samples=5")
    told = refused(model_folder, "task=demo", *wrong)
    assert "3 problems" in told and "take attack.loss=margin" in told and "attack.radii asks for none" in told
    assert "are so few" in told


def test_a_surrogate_reads_the_same_tokens_and_has_the_same_widths(model_folder, tmp_path):
    asked = ("task=demo", "limit=2", "attack.checks=true")
    assert subject(model_folder, *asked, f"attack.surrogate={model_folder}").surrogate is not None
    assert "attack.surrogate" in refused(model_folder, *asked, "attack.surrogate=/nowhere")
    other = build_tokenizer(ModelConfig(), ["quite another sentence"] * 50)
    build_model(ModelConfig(), TASKS["demo"], other, 0).module.save_pretrained(tmp_path)
    other.save_pretrained(tmp_path)
    assert "has other tokens than the model under attack" in refused(model_folder, *asked, f"attack.surrogate={tmp_path}")


def test_the_command_names_its_commands(capsys):
    assert main([]) == main(["--help"]) == ExitCode.OK
    told = capsys.readouterr().out
    assert all(told.count(f"  {name} ") == 2 for name in COMMANDS)
    assert main(["evaluat"]) == ExitCode.USER_ERROR and "did you mean 'evaluate'" in capsys.readouterr().err


def test_radii_are_sorted_and_begin_with_zero():
    assert AttackOptions(radii=[0.1, 1e-3, 0.1]).curve == (0.0, 1e-3, 0.1) and AttackOptions(radii=[]).curve == ()
    assert AttackOptions().curve[-1] == 1e-2 and AttackOptions(norm="l2").curve[-1] == 1.0
    assert parse(["x", "attack.radii=[1e-3]"])[1] == EvaluationOptions(attack=AttackOptions(radii=(1e-3,)))


def test_a_table_shows_the_calibration_as_it_is_and_at_the_models_temperature():
    before, after = {"nll": 0.5, "ece": 0.1}, {"nll": 0.4, "ece": 0.05}
    splits = {
        "a": {"calibration": {"before": before, "temperature": 1.5, "after": after}},
        "b": {"calibration": {"before": after}},
    }
    assert calibration_rows({"splits": splits}) == [
        ["split", "calibration", "nll", "ece"],
        ["a", "as it is", 0.5, 0.1],
        ["a", "at T = 1.500", 0.4, 0.05],
        ["b", "as it is", 0.4, 0.05],
    ]
    assert calibration_rows({"splits": {"a": {"clean": {}}}}) == []


def test_a_temperature_is_part_of_the_model_but_not_of_what_it_answers(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "model")
    before = subject(tmp_path / "model", "task=demo", "limit=2")
    write_temperature(tmp_path / "model", {"temperature": 1.5, "fitted_on": ["validation"], "examples": 2})
    after = subject(tmp_path / "model", "task=demo", "limit=2")
    assert (before.temperature, after.temperature) == (None, 1.5) and before.model_sha256 == after.model_sha256
