"""Options, recipes, task YAMLs, sweep spaces and DeepSpeed's JSON with any content are read, or refused with a reason."""

import json
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mat_ds.config.overrides import given_twice
from mat_ds.config.section import nested
from mat_ds.config.validation import read_options
from mat_ds.config.yaml_files import as_yaml, read_yaml
from mat_ds.engine.ds_config import ds_config_problems
from mat_ds.errors import UserError
from mat_ds.evaluation.options import EvaluationOptions
from mat_ds.methods import METHODS
from mat_ds.ranks.world import World
from mat_ds.runs.ds_config import read_ds_config
from mat_ds.runs.ds_types import idle
from mat_ds.runs.load import read_run_config
from mat_ds.runs.options import RunConfig, combination_problems
from mat_ds.sweeps.space import extremes, overrides, read_space
from mat_ds.tasks.registry import find_task
from mat_ds.tasks.written import KNOWN

MANY = pytest.param(3000, marks=pytest.mark.slow)


def options_of(schema, prefix=""):
    """The dotted name of every option, as the schema nests them."""
    for name, field in schema.model_fields.items():
        inner = None if name == "method" else nested(field)
        yield f"{prefix}{name}"
        yield from options_of(inner, f"{prefix}{name}.") if inner else ()


OPTIONS = [*options_of(RunConfig), *(f"method.{name}" for m in METHODS.values() for name in m.Settings.model_fields)]
WORDS = [
    "", "0", "1", "-1", "08", "1e5", "1e400", "-1e-400", "9" * 30, "9" * 5000, "0.5", ".5", ".inf", ".nan", "true", "false",
    "null", "~", "off", "yes", "[", "]", "{", "}", "[1, 2]", "[a]", "{a: 1}", "{a: {b: 1}}", "{a: 1, a: 2}", "[0.9, 0.999]",
    "[[[]]]", "&a", "*a", "!a", "!!bool maybe", "# x", "a #b", "a: b", "- a", "'", '"', "~/x", "$HOME/x", "$NOT_SET_AT_ALL",
    "~nobody", "../x", "/", ".", "mat", "vanilla", "adam", "best", "auto", "never", "none", "sqlite:///x.db", "http://host",
    "http://[", "a\nb", "\x1b[0m", "\x00", "\ud800", "\u202e", "é", "😀", "[" * 3000, "{a: " * 3000,
]  # fmt: skip
TEXT = st.one_of(st.sampled_from(WORDS), st.text(max_size=12))
PLAIN = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    PLAIN,
    st.sampled_from([word for word in WORDS if "\ud800" not in word and len(word) < 100]),
)


def trees(keys, leaves=20):
    """Mappings from such keys to anything."""
    inner = st.recursive(
        SCALARS,
        lambda below: st.one_of(st.lists(below, max_size=3), st.dictionaries(st.one_of(keys, PLAIN), below, max_size=3)),
        max_leaves=leaves,
    )
    return st.dictionaries(keys, inner, max_size=5)


def fuzz(examples, strategy, check):
    """Runs a check on `count` examples; it may raise `UserError` and take a second or two."""

    @settings(max_examples=examples, deadline=timedelta(seconds=20), suppress_health_check=list(HealthCheck), database=None)
    @given(strategy)
    def attempt(example):
        begin = time.process_time()
        try:
            check(example)
        except UserError as error:
            assert error.problems and all(problem.reason and problem.fix for problem in error.problems), str(error)
            assert all(c.isprintable() or c == "\n" for c in str(error)) and len(str(error)) < 200_000
        assert time.process_time() - begin < 10

    attempt()


def written(text, name="file.yaml"):
    """A file that holds a text, or bytes."""
    path = Path(tempfile.mkdtemp(dir=written.folder)) / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return path


@pytest.fixture(autouse=True)
def folder(tmp_path):
    written.folder = tmp_path


def checked(run, problems):
    """Checks that a valid run can be written, read back, and checked as a whole."""
    for problem in problems:
        assert problem.reason and problem.fix and all(c.isprintable() or c == "\n" for c in str(problem))
    if run and not problems:
        list(combination_problems(run, 2))
        text = as_yaml(run.model_dump(mode="json"))
        again, wrong = read_run_config(written(text), [])
        assert again == run and not wrong


@pytest.mark.parametrize("examples", [150, MANY])
def test_any_command_line_is_read_or_refused(examples):
    argument = st.one_of(
        st.builds("{}={}".format, st.sampled_from(OPTIONS), TEXT),
        st.builds("{}.{}={}".format, st.sampled_from(OPTIONS), TEXT, TEXT),
        TEXT,
    )

    def check(arguments):
        list(given_twice(arguments))
        checked(*read_run_config(None, arguments))
        read_options(EvaluationOptions, arguments)

    fuzz(examples, st.lists(argument, max_size=5), check)


@pytest.mark.parametrize("examples", [150, MANY])
def test_any_recipe_is_read_or_refused(examples):
    def leaf(name):
        return st.one_of(SCALARS, trees(st.sampled_from([option.split(".")[-1] for option in OPTIONS]), 5))

    sections = {name: leaf(name) for name in RunConfig.model_fields}
    inner = {
        section: st.dictionaries(st.sampled_from([o.split(".")[1] for o in OPTIONS if o.startswith(f"{section}.")]), SCALARS)
        for section in ("data", "model", "optimizer", "train", "method", "tracking")
    }
    recipe = st.fixed_dictionaries({}, optional={**sections, **inner})
    fuzz(examples, recipe, lambda tree: checked(*read_run_config(written(as_yaml(tree)), [])))


@pytest.mark.parametrize("examples", [150, MANY])
def test_any_text_in_place_of_a_recipe_is_read_or_refused(examples):
    pieces = st.sampled_from([*WORDS, "a", ":", ": ", "\n", "\n  ", " ", "- ", "? ", "|", ">", ", ", "seed", "train", "---\n",
                              "%YAML 1.1", "&x ", "*x", "<<: ", "\t", "\ufeff", "'", "#"])  # fmt: skip
    text = st.one_of(st.lists(pieces, max_size=30).map("".join), st.binary(max_size=60))
    fuzz(examples, text, lambda content: checked(*read_run_config(written(content), [])))


@pytest.mark.parametrize("examples", [200, MANY])
def test_written_yaml_is_read_back_by_this_reader_and_by_a_yaml_1_1_reader(examples):
    def check(tree):
        path = written(as_yaml(tree))
        found = read_yaml(path)
        assert found == tree and json.dumps(found) == json.dumps(tree)
        assert yaml.safe_load(path.read_bytes()) == tree

    fuzz(examples, trees(PLAIN), check)


@pytest.mark.parametrize("examples", [200, MANY])
def test_any_task_yaml_is_read_or_refused(examples):
    names = st.sampled_from(["a", "b", "label", "train", "validation", "test", "../x", "1", "1.0", "A", "", "mnli", "x.tsv"])
    map_of = st.dictionaries(names, st.one_of(names, SCALARS), max_size=2)
    values = st.one_of(SCALARS, names, st.lists(names, max_size=3), map_of)
    usual = {"text": ["a"], "labels": ["a", "b"], "train": ["train"], "dev": ["validation"], "metrics": ["accuracy"]}
    tree = st.dictionaries(st.sampled_from(sorted(KNOWN)), values, max_size=4).map(lambda found: {**usual, **found})

    def check(found):
        spec = find_task(str(written(as_yaml(found), "own.yaml")))
        again = find_task(str(written(as_yaml(spec.model_dump(mode="json", exclude_none=True)), "own.yaml")))
        assert again == spec

    fuzz(examples, tree, check)


@pytest.mark.parametrize("examples", [150, MANY])
def test_any_sweep_space_is_read_or_refused(examples):
    numbers = st.one_of(st.integers(-5, 5), st.floats(allow_nan=False), SCALARS)
    extent = st.one_of(
        st.fixed_dictionaries({"choices": st.lists(SCALARS, max_size=3)}),
        st.fixed_dictionaries({"low": numbers, "high": numbers}, optional={"step": numbers, "log": st.booleans()}),
        SCALARS,
    )
    keys = st.one_of(st.sampled_from(OPTIONS), st.sampled_from(["seed, seed", "seed,method.lam", ",", ""]), PLAIN)
    space = st.fixed_dictionaries(
        {"options": st.one_of(st.dictionaries(keys, extent, max_size=3), SCALARS)},
        optional={"sampler": st.sampled_from(["tpe", "grid", "random", 3]), "startup_trials": SCALARS, "objective": SCALARS},
    )

    def check(tree):
        found = read_space(written(as_yaml(tree)))
        for key, value in extremes(found):
            read_run_config(None, overrides({key: value}))
        if found.sampler == "grid":
            assert 1 <= len(found.grid) <= 1000

    fuzz(examples, space, check)


@pytest.mark.parametrize("examples", [100, MANY])
def test_any_json_for_deepspeed_is_read_or_refused(examples):
    keys = st.sampled_from([
        "zero_optimization", "fp16", "bf16", "steps_per_print", "optimizer", "scheduler", "data_types", "stage", "enabled",
        "train_batch_size", "flops_profiler", "activation_checkpointing", "offload_optimizer", "params", "gradient_clipping",
        "communication_data_type", "overlap_comm", "device",
    ])  # fmt: skip
    pieces = st.sampled_from(
        ["{", "}", "[", "]", ":", ",", '"a"', '"fp16"', "1", "1e999", "NaN", "true", "null", "//", "/*", "\n", "'"]
    )
    text = st.one_of(trees(keys).map(json.dumps), st.lists(pieces, max_size=20).map("".join), st.binary(max_size=40))

    def check(content):
        tree = read_ds_config(written(content, "ds.json"))
        found = list(ds_config_problems(tree, RunConfig(), World()))
        assert all(problem.reason and problem.fix for problem in found)
        if not found:
            list(idle(tree))

    fuzz(examples, text, check)
