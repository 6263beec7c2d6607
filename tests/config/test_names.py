"""Texts that become part of a path must be names."""

from pathlib import Path

import pytest

from mat_ds.commands import seeds
from mat_ds.config.names import is_name, name_of_file
from mat_ds.errors import ExitCode, UserError
from mat_ds.registry.versions import register
from mat_ds.runs.load import load_run_config


@pytest.mark.parametrize("text", ["a", "SST-2.tsv", "validation_matched", "0", "_x", "-x", "a.b.c", "x" * 100])
def test_letters_digits_dots_and_dashes_are_allowed_in_a_name(text):
    assert is_name(text)


@pytest.mark.parametrize(
    "text", ["", ".", "..", ".a", "a/b", "../a", "a b", "a\n", "\na", "a\0", "é", "x" * 101, "a:b", "~", "$A"]
)
def test_separators_and_leading_dots_are_refused(text, tmp_path):
    assert not is_name(text)
    with pytest.raises(UserError, match="NAME"):
        register(tmp_path, text)
    with pytest.raises(UserError, match=r"tracking\.register"):
        load_run_config(None, [f"tracking.register={text}"])


def test_a_task_file_without_a_valid_name_needs_output_dir(tmp_path):
    assert name_of_file(Path("launch/recipes/cola_bert.yaml")) == "cola_bert"
    for path in ("a b.yaml", ".hidden", "x/.."):
        with pytest.raises(UserError, match="output_dir"):
            name_of_file(Path(path))


def test_seeds_of_a_task_file_elsewhere_stay_under_runs(tmp_path, monkeypatch, capsys):
    """The path of the task file is not part of the run's folder."""
    made = []
    monkeypatch.setattr(seeds.Seeds, "define", lambda self: made.append(self.folder))
    monkeypatch.setattr(seeds.Seeds, "train", lambda self, stop_signals: ExitCode.OK)
    monkeypatch.setattr(seeds.Seeds, "publish", lambda self: [])
    monkeypatch.chdir(tmp_path)
    seeds.main([f"task={tmp_path}/elsewhere/own.yaml"])
    assert made == [Path("runs/own-seeds")]
