"""Options that are text or a path: the shell's text is the value, `~` and `$VARIABLE` mean the same everywhere."""

from pathlib import Path

import pytest

from mat_ds.config.overrides import given_twice, parse_overrides
from mat_ds.config.validation import read_options
from mat_ds.config.yaml_files import as_yaml
from mat_ds.errors import UserError
from mat_ds.evaluation.options import EvaluationOptions
from mat_ds.runs.load import load_run_config
from mat_ds.runs.options import RunConfig
from mat_ds.terminal.parser import Parser

WORDS = [
    "ablation #3",
    "@x",
    "a: b",
    "[x",
    "{x",
    "*x",
    "!x",
    "&x",
    "- x",
    '"x',
    '"x"',
    "'",
    "x:",
    "yes",
    "08",
    "1e5",
    "true",
    "~",
    "2024",
    " x ",
    "#",
    "a=b",
    "None",
    "%x",
    "`x`",
    "|",
    "a\nb",
    "x # y",
    "[1, 2]",
    "{a: 1}",
]


def refused(*overrides, recipe=None):
    with pytest.raises(UserError) as caught:
        load_run_config(recipe, overrides)
    return {problem.key: problem for problem in caught.value.problems}


@pytest.mark.parametrize("text", WORDS)
def test_a_text_option_is_what_the_shell_passed_also_in_config_yaml(text, tmp_path):
    run = load_run_config(None, [f"tracking.run_name={text}", f"tracking.tags.note={text}", f"tracking.experiment={text}"])
    assert (run.tracking.run_name, run.tracking.tags, run.tracking.experiment) == (text, {"note": text}, text)
    recipe = tmp_path / "config.yaml"
    recipe.write_text(as_yaml(run.model_dump(mode="json")))
    assert load_run_config(recipe, []) == run


@pytest.mark.parametrize("text", [word for word in WORDS if not word.startswith("~")])
def test_a_path_is_what_the_shell_passed(text):
    for key in ("output_dir", "data.path", "model.name", "train.resume", "task"):
        section, _, name = key.rpartition(".")
        run = load_run_config(None, [f"{key}={text}"])
        assert getattr(getattr(run, section) if section else run, name) == text
    assert load_run_config(None, ["output_dir=/data/run #2/x"]).output_dir == "/data/run #2/x"


def test_null_is_none_for_optional_texts_and_a_text_elsewhere():
    run = load_run_config(None, ["output_dir=null", "data.path=null", "tracking.run_name=null", "model.attention=null"])
    assert [run.output_dir, run.data.path, run.tracking.run_name, run.model.attention] == [None] * 4
    assert load_run_config(None, ["model.name=null"]).model.name == "null"


def test_other_options_are_yaml_scalars_and_lists_without_comments():
    run = load_run_config(None, ["train.epochs=1e1", "data.group_by_length=true", "optimizer.betas=[0.8, 0.9]", "seed=08"])
    assert (run.train.epochs, run.data.group_by_length, run.optimizer.betas, run.seed) == (10, True, (0.8, 0.9), 8)
    found = refused(
        "train.epochs=3 # three", "seed=*x", "data.group_by_length=!!bool true", "optimizer.betas=[0.8", 'optimizer.lr="1"'
    )
    assert set(found) == {"train.epochs", "seed", "data.group_by_length", "optimizer.betas", "optimizer.lr"}
    assert "number" in found["train.epochs"].reason and "not a YAML value" in found["optimizer.betas"].reason


@pytest.mark.parametrize("key", ["output_dir", "data.path", "model.name", "train.resume", "task"])
@pytest.mark.parametrize("way", ["recipe", "command line"])
def test_home_and_variables_are_expanded_in_every_path(key, way, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("PLACE", "there")
    section, _, name = key.rpartition(".")
    for written, meant in (("~/x", "/home/me/x"), ("$HOME/x", "/home/me/x"), ("/a/${PLACE}/$PLACE", "/a/there/there"),
                           ("~", "/home/me"), ("a/~/b", "a/~/b"), ("cost$5", "cost$5"), ("./~", "./~")):  # fmt: skip
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(as_yaml({section: {name: written}} if section else {name: written}))
        run = load_run_config(recipe, []) if way == "recipe" else load_run_config(None, [f"{key}={written}"])
        assert getattr(getattr(run, section) if section else run, name) == meant


def test_a_path_that_cannot_be_expanded_is_refused_with_the_missing_variable(monkeypatch):
    monkeypatch.delenv("NOWHERE", raising=False)
    monkeypatch.setenv("BLANK", "")
    monkeypatch.setenv("AGAIN", "$NOWHERE")
    for written, said in (("$NOWHERE/x", "NOWHERE"), ("a/${BLANK}", "BLANK"), ("~nobody-of-that-name/x", "user"), ("", "empty"),
                          ("$AGAIN", "again"), ("a\0b", "nul"), ("x" * 256, "long"), ("x/" * 3000, "long")):  # fmt: skip
        found = refused(f"output_dir={written}", f"model.name={written}")
        assert all(said.lower() in found[key].reason for key in ("output_dir", "model.name"))


def test_the_other_commands_expand_paths_in_the_same_way(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    options = read_options(EvaluationOptions, ["task=~/t.yaml", "data.path=$HOME/d", "output_dir=${HOME}/o #1"])
    assert (options.task, options.data.path, options.output_dir) == (
        f"{tmp_path}/t.yaml",
        f"{tmp_path}/d",
        f"{tmp_path}/o #1",
    )
    parser = Parser("x", None, "mat-ds x")
    parser.add_argument("--recipe", type=Path)
    assert parser.parse_args(["--recipe", "~/r.yaml"]).recipe == tmp_path / "r.yaml"
    with pytest.raises(UserError, match="NOWHERE"):
        parser.parse_args(["--recipe", "$NOWHERE/r.yaml"])


def test_the_path_of_a_database_is_expanded_too(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    for written in ("sqlite:///~/m.db", "sqlite:///$HOME/m.db"):
        assert load_run_config(None, [f"tracking.uri={written}"]).tracking.uri == "sqlite:////home/me/m.db"
    assert load_run_config(None, ["tracking.uri=http://host/$HOME"]).tracking.uri == "http://host/$HOME"


def test_the_last_of_an_option_given_twice_counts_and_both_are_named():
    assert load_run_config(None, ["seed=1", "seed=2"]).seed == 2
    assert list(given_twice(["seed=1", "train.epochs=3", "seed=1", "seed=2"])) == [
        "seed is given twice, as '1' and as '2': the last counts",
    ]


@pytest.mark.parametrize(
    "pair",
    [
        ("train.epochs=3", "train=4"),
        ("train=4", "train.epochs=3"),
        ("model.lora.r=4", "model.lora={}"),
        ("model.lora=null", "model.lora.r=4"),
    ],
)
def test_a_section_and_its_option_cannot_both_be_given(pair):
    assert len(parse_overrides(pair, RunConfig)[1]) == 1


def test_a_scalar_in_place_of_a_section_is_an_error_despite_an_override(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("train: 3\n")
    assert "train" in refused("train.epochs=4", recipe=recipe)


def test_arguments_that_are_not_utf8_or_nested_too_deep_are_refused():
    found = refused("tracking.run_name=\udcff", "tracking.tags." + "a." * 5000 + "b=1", "seed=" + "9" * 5000, "=3", "x")
    assert len(found) == 5 and RunConfig().tracking.tags == {}


def test_a_number_in_place_of_a_text_asks_for_quotes(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("tracking: {run_name: 08}\noutput_dir: 2024\n")
    found = refused(recipe=recipe)
    assert set(found) == {"tracking.run_name", "output_dir"} and all("quotes" in problem.fix for problem in found.values())
