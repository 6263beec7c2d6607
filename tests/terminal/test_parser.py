"""The parser of all commands: a flag that has another name here is told that name."""

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
def test_a_flag_that_has_another_name_is_told_it(typed, hint, capsys):
    assert main(typed.split()) == ExitCode.USER_ERROR
    told = capsys.readouterr().err
    assert "1 problem " in told and "there is no such flag" in told and hint in told


def test_a_flag_that_no_other_is_like_is_shown_an_example(capsys):
    assert main("predict runs/one in.txt --quick".split()) == ExitCode.USER_ERROR
    assert "unrecognized arguments: --quick" in (told := capsys.readouterr().err) and "mat-ds predict runs/cola" in told
