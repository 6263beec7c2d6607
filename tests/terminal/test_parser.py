"""The parser of all commands: the error for a flag known by another name says the name used here."""

import pytest

from mat_ds.cli import main
from mat_ds.errors import ExitCode


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("predict runs/one in.txt --batch-size 5", "it is called --batch_size"),
        ("predict runs/one in.txt --batch-size=5", "it is called --batch_size"),
        ("plan --ds-config zero2 --gpus 2 --gpu_memory 16GB", "it is called --ds_config"),
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
