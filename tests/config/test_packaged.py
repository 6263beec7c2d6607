"""Packaged files are found by name, paths stay paths, and a wrong name gets a hint."""

import re
from pathlib import Path

import pytest

from mat_ds.config.packaged import DS_CONFIGS, HOME, RECIPES, SPACES
from mat_ds.errors import UserError
from mat_ds.runs.ds_config import read_ds_config
from mat_ds.runs.load import load_run_config
from mat_ds.sweeps.space import read_space
from tests.support.launch import ROOT

SHELVES = (RECIPES, SPACES, DS_CONFIGS)


def test_every_file_of_a_checkout_has_a_name():
    for shelf, folder in zip(SHELVES, ("launch/recipes", "launch/sweeps", "ds_configs"), strict=True):
        files = {path.name for path in (ROOT / folder).iterdir()}
        assert files == {f"{name}{shelf.suffix}" for name in shelf.names()}
        assert all(shelf.argument(name) == ROOT / folder / f"{name}{shelf.suffix}" for name in shelf.names())


def test_paths_stay_paths_and_a_users_file_wins_over_a_packaged_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vanilla").mkdir()
    assert RECIPES.argument("./cola") == Path("./cola") and RECIPES.argument("cola.yaml") == Path("cola.yaml")
    assert SPACES.argument("vanilla") == SPACES.path("vanilla")  # the folder of that name is not a space
    (tmp_path / "cola").write_text("seed: 7\n")
    assert load_run_config(RECIPES.argument("cola"), []).seed == 7
    assert DS_CONFIGS.argument("zero2") == ROOT / "ds_configs" / "zero2.json"


@pytest.mark.parametrize(
    "read, key, wrong, near",
    [
        (lambda path: load_run_config(path, []), "--recipe", "launch/recipes/colla.yaml", "cola"),
        (read_ds_config, "--ds_config", "zero22", "zero2"),
        (read_space, "--space", "vanila", "vanilla"),
    ],
)
def test_a_wrong_name_is_one_error_with_the_nearest_name(read, key, wrong, near, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        read(Path(wrong))
    (problem,) = caught.value.problems
    assert (problem.key, problem.value) == (key, wrong) and f"did you mean {near!r}" in problem.fix


def test_only_one_module_knows_where_packaged_files_lie():
    assert HOME == ROOT
    ways_out = re.compile(r"__file__\)\.(resolve\(\)\.)?(parents\[[1-9]|parent\.parent)")
    found = {str(path.relative_to(ROOT)) for path in (ROOT / "mat_ds").rglob("*.py") if ways_out.search(path.read_text())}
    assert found == {"mat_ds/config/packaged.py"}
