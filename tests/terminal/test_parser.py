"""The parser of all commands: the error for a flag known by another name says the name used here."""

import pytest

from mat_ds.cli import main
from mat_ds.config.packaged import DS_CONFIGS
from mat_ds.errors import ExitCode
from mat_ds.terminal.parser import Parser
from mat_ds.training.request import parse_arguments


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("plan --weight-decay=0.1 --gpus 2 --gpu-memory 16GB", "Trainer's weight_decay is here optimizer.weight_decay"),
        ("plan --learning_rate 1e-3 --gpus 2 --gpu_memory 16GB seed=1", "Trainer's learning_rate is here optimizer.lr"),
    ],
)
def test_a_flag_known_by_another_name_gets_a_hint(typed, hint, capsys):
    assert main(typed.split()) == ExitCode.USER_ERROR
    told = capsys.readouterr().err
    assert "1 problem " in told and "there is no such flag" in told and hint in told


def test_an_unknown_flag_without_a_similar_one_gets_an_example(capsys):
    assert main("predict runs/one in.txt --quick".split()) == ExitCode.USER_ERROR
    assert "unrecognized arguments: --quick" in (told := capsys.readouterr().err) and "mat-ds predict runs/cola" in told


@pytest.mark.parametrize(
    "words",
    [
        "--ds-config zero1 --dry-run seed=1",
        "--deepspeed zero1 seed=1 --dry_run",
        "--ds_config=zero1 --dry-run seed=1",
        "seed=1 --deepspeed=zero1 --dry-run",
    ],
)
def test_dashes_and_underscores_are_the_same_in_a_flag(words):
    parsed = parse_arguments(words.split())
    assert (parsed.ds_config, parsed.dry_run, parsed.overrides) == (DS_CONFIGS.path("zero1"), True, ["seed=1"])


def test_every_flag_of_every_command_may_be_written_with_dashes():
    declared = Parser("any", None, "mat-ds any")
    declared.add_argument("--one_flag", nargs="+")
    declared.add_argument("--two-words")
    assert vars(declared.parse_args(["--one-flag", "a-b", "c_d", "--two_words=e-f_g"])) == {
        "one_flag": ["a-b", "c_d"],
        "two_words": "e-f_g",
    }
    declared.add_argument("rest", nargs="*")
    assert declared.parse_args(["--two_words", "x", "--", "--one-flag"]).rest == ["--one-flag"], "behind -- stand no flags"
