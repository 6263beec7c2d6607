"""Options by their names in Hugging Face's Trainer: an error says the name used here, and a page lists all."""

import re
from importlib import import_module

import pytest
from transformers import TrainingArguments

from mat_ds.config.section import nested
from mat_ds.errors import UserError
from mat_ds.runs.load import load_run_config
from mat_ds.runs.options import RunConfig
from mat_ds.runs.trainer_names import TRAINER_NAMES
from mat_ds.training.request import parse_arguments
from tests.support.launch import ROOT

# From the example scripts, not from TrainingArguments.
OF_SCRIPTS = {
    "model_name_or_path",
    "max_seq_length",
    "max_length",
    "max_train_samples",
    "max_eval_samples",
    "task_name",
    "attn_implementation",
}


def problems(function, *arguments):
    with pytest.raises(UserError) as caught:
        function(*arguments)
    return {problem.key: problem for problem in caught.value.problems}


def test_every_name_is_one_of_trainers():
    removed = {"warmup_ratio", "group_by_length"}  # from older versions of transformers
    assert set(TRAINER_NAMES) - OF_SCRIPTS - removed <= set(TrainingArguments.__dataclass_fields__)


def test_every_name_leads_to_an_existing_option():
    for ours in TRAINER_NAMES.values():
        first = re.match(r"[\w.]+|--ds_config", ours)[0]
        if first != "--ds_config":
            schema = RunConfig
            for part in first.split("."):
                field = schema.model_fields[part]
                schema = nested(field)
            assert field.description


def test_an_unknown_option_with_such_a_name_gets_a_hint(tmp_path):
    found = problems(load_run_config, None, ["learning_rate=2e-5", "train.num_train_epochs=3", "optimizer.adam_beta1=0.9"])
    assert "optimizer.lr" in found["learning_rate"].fix and "train.epochs" in found["train.num_train_epochs"].fix
    assert "optimizer.betas" in found["optimizer.adam_beta1"].fix
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("per_device_train_batch_size: 8\n")
    assert "train.micro_batch_size" in problems(load_run_config, recipe, [])["per_device_train_batch_size"].fix


NEEDED = {"plan": ["--gpus", "1", "--gpu_memory", "16GB"], "sweep": ["--space", "demo"], "prepare": ["folder"]}


@pytest.mark.parametrize("command", ["train", "plan", "doctor", "sweep", "seeds", "prepare"])
def test_such_a_flag_gets_a_hint_from_every_command_with_run_options(command):
    parse = parse_arguments if command == "train" else import_module(f"mat_ds.commands.{command}").parse
    needed = NEEDED.get(command, [])
    found = problems(parse, [*needed, "--learning_rate", "2e-5", "--model-name-or-path=x", "seed=1"])
    assert "optimizer.lr" in found["--learning_rate"].fix and "model.name" in found["--model-name-or-path"].fix
    assert set(problems(parse, [*needed, "--bogus", "1"])) == {"command line"}
    assert parse([*needed, "seed=1"]).overrides == ["seed=1"]


def test_the_page_has_the_table():
    page = (ROOT / "docs" / "coming_from_trainer.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.M))
    assert rows == TRAINER_NAMES
