"""Defaults, recipe and command line: their precedence, their errors, and that one message has all errors."""

from pathlib import Path

import pytest

from mat_ds.config.yaml_files import as_yaml, read_yaml
from mat_ds.errors import UserError
from mat_ds.runs.load import load_run_config, read_run_config
from mat_ds.runs.options import RunConfig, batch_problems, combination_problems

ROOT = Path(__file__).parents[2]


def load(*overrides, recipe=None):
    return load_run_config(recipe, overrides)


def problems(*overrides, recipe=None):
    with pytest.raises(UserError) as caught:
        load(*overrides, recipe=recipe)
    return {problem.key: problem for problem in caught.value.problems}


def write(folder, text):
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_overrides_win_over_the_recipe_and_the_recipe_over_the_defaults(tmp_path):
    recipe = write(tmp_path, "seed: 3\ntrain: {epochs: 7, batch_size: 16}\noptimizer:\n  lr: 2e-5\n")
    run = load("train.epochs=9", recipe=recipe)
    assert (run.train.epochs, run.train.batch_size, run.optimizer.lr, run.seed) == (9, 16, 2e-5, 3)
    assert run.train.keep_last == RunConfig().train.keep_last


def test_the_documented_defaults():
    run = RunConfig()
    assert (run.optimizer.name, run.optimizer.lr, run.optimizer.betas, run.optimizer.eps) == ("adam", 1e-5, (0.9, 0.999), 1e-8)
    assert (run.optimizer.weight_decay, run.optimizer.warmup_ratio, run.optimizer.max_grad_norm) == (0.01, 0.1, 0.0)
    assert (run.train.epochs, run.train.resume, run.data.max_length) == (3, "never", 512)
    mat = run.method
    assert (mat.name, mat.delta_steps, mat.theta_steps, mat.delta_lr) == ("mat", 5, 10, 1e-3)
    assert (mat.delta_init_scale, mat.delta_max_norm, mat.semantics) == (1e-5, 1e-5, "paper")


def test_numbers_lists_and_texts_are_read_as_people_write_them(tmp_path):
    recipe = write(
        tmp_path, "optimizer: {lr: 1e-4}\nmethod: {name: mat, dropout: off, delta_lr: 5E-3}\noutput_dir: 2026-01-01\n"
    )
    run = load("optimizer.eps=1e-6", "data.group_by_length=true", "data.path=null", recipe=recipe)
    assert run.optimizer.lr == 1e-4 and run.optimizer.eps == 1e-6 and run.method.dropout == "off"
    assert run.data.group_by_length is True and run.data.path is None and run.output_dir == "2026-01-01"
    assert load("optimizer.betas=[0.8, 0.9]").optimizer.betas == (0.8, 0.9)


def test_every_unknown_key_is_named_with_the_nearest_known_one():
    found = problems("train.epoch=3", "method.delta_step=2", "optimiser.lr=1", "data.path.x=1")
    assert "did you mean 'epochs'" in found["train.epoch"].fix
    assert "did you mean 'delta_steps'" in found["method.delta_step"].fix
    assert "did you mean 'optimizer'" in found["optimiser"].fix
    assert "data.path" in found


@pytest.mark.parametrize(
    "argument, fix",
    [
        ("lr=3", "write optimizer.lr"),
        ("train.lr=3", "write optimizer.lr"),
        ("max_step=3", "did you mean train.max_steps?"),
        ("lam=3", "write method.lam"),
        ("name=x", "write model.name or optimizer.name or method.name"),
        ("model=roberta-base", "write model.name=roberta-base"),
        ("data=folder", "write data.path=folder"),
        ("data=my.csv", "write data.train=my.csv"),
        ("train=my.csv", "write data.train=my.csv"),
        ("label=stars", "write data.label"),
        ("method=freelb", "write method.name=freelb"),
        ("model.lora=4", "write model.lora.<option>=<value>, with one of: r, "),
        ("optimizer.schedule=Liner", "did you mean 'linear'?"),
        ("batch=3", "did you mean train.batch_size?"),
        ("train.max_steps=1e3", "write 1000;"),
        ("train.deterministic=yes", "write true or false;"),
        ("optimizer.betas=0.9", "write it as [a, b];"),
    ],
)
def test_an_option_without_its_section_or_misspelt_is_named(argument, fix):
    (found,) = problems(argument).values()
    assert found.fix.startswith(fix)


def test_wrong_types_and_values_say_what_the_option_means():
    found = problems("optimizer.lr=fast", "train.batch_size=2.5", "data.group_by_length=1", "train.epochs=-1", "seed=true",
                     "method.beta_s=1.5", "data.max_length=.inf", "method.semantics=both", "nonsense")  # fmt: skip
    assert set(found) == {"optimizer.lr", "train.batch_size", "data.group_by_length", "train.epochs", "seed", "method.beta_s",
                          "data.max_length", "method.semantics", "nonsense"}  # fmt: skip
    assert "peak step size" in found["optimizer.lr"].fix and "1e-05" in found["optimizer.lr"].fix
    assert found["optimizer.lr"].value == "fast"


def test_absurdly_large_numbers_are_refused():
    found = problems("train.epochs=1e308", "train.max_steps=9223372036854775807", "train.eval_per_epoch=1000000000")
    assert set(found) == {"train.epochs", "train.max_steps", "train.eval_per_epoch"}


def test_a_section_that_is_off_by_default_is_turned_on_by_any_of_its_options(tmp_path):
    assert load().model.lora is None and load("model.lora.r=4").model.lora.r == 4 and load("model.lora={}").model.lora.r == 8
    recipe = write(tmp_path, "model: {name: there, lora: {r: 16, target_modules: [query]}}\n")
    assert load("model.lora.alpha=32", recipe=recipe).model.lora.model_dump() == {
        "r": 16,
        "alpha": 32,
        "dropout": 0.0,
        "variant": "lora",
        "target_modules": ["query"],
        "modules_to_save": [],
        "merge": False,
    }
    assert load("model.lora=null", recipe=recipe).model.lora is None
    found = problems("model.lora.rang=4", "model.lora.dropout=1", "model.lora.target_modules=query")
    assert set(found) == {"model.lora.rang", "model.lora.dropout", "model.lora.target_modules"}
    assert "target_modules" in found["model.lora.rang"].fix and "adapters' input" in found["model.lora.dropout"].fix
    assert "model.lora.<option>=<value>" in problems("model.lora=true")["model.lora"].fix


def test_an_unknown_method_lists_the_known():
    assert "mat" in problems("method.name=mad")["method.name"].fix


def test_tags_are_text_even_if_yaml_reads_numbers():
    tags = load("tracking.tags.year=2026", "tracking.tags.draft=true", "tracking.tags.my.team=nlp").tracking.tags
    assert tags == {"year": "2026", "draft": "true", "my.team": "nlp"}
    assert RunConfig.model_validate({"tracking": {"tags": tags}}).tracking.tags == tags
    assert load("tracking.tags.a=[1]", "tracking.tags.b=1e5").tracking.tags == {"a": "[1]", "b": "1e5"}
    found = problems("tracking.tags=[1]", "tracking.experimant=x", "tracking.enabled=true")
    assert set(found) == {"tracking.tags", "tracking.experimant", "tracking.enabled"}
    assert "tracking.tags.<name>" in found["tracking.tags"].fix and "experiment" in found["tracking.experimant"].fix


def test_a_recipes_method_options_belong_to_its_method(tmp_path):
    recipe = write(tmp_path, "method: {name: mat, theta_steps: 4}\n")
    assert load(recipe=recipe).method.theta_steps == 4
    assert load("method.delta_steps=2", recipe=recipe).method.theta_steps == 4
    assert load("method.name=vanilla", recipe=recipe).method.name == "vanilla"
    assert load("method.theta_steps=6").method.name == "mat"
    assert "method.lam" in problems("method.name=vanilla", "method.lam=1", recipe=recipe)


def test_the_demo_recipe_is_the_default_only_for_the_demo():
    demo = ROOT / "launch" / "recipes" / "demo.yaml"
    assert load_run_config(None, [], demo).optimizer.lr == 1e-3
    assert load_run_config(None, ["task=cola"], demo).optimizer.lr == 1e-5


def test_missing_and_broken_recipes_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="is not YAML"):
        read_yaml(write(tmp_path, "a: [1\n"))
    with pytest.raises(UserError, match="not hold a mapping"):
        read_yaml(write(tmp_path, "- a\n"))


def test_a_batch_that_does_not_divide_names_sizes_that_work():
    train = load("train.batch_size=30", "train.micro_batch_size=4").train
    (problem,) = batch_problems(train, 1)
    assert "1, 2, 3, 5, 6, 10, 15, 30" in problem.fix
    (problem,) = batch_problems(train, 4)
    assert problem.key == "train.batch_size" and "28 or 32" in problem.fix
    assert not list(batch_problems(load("train.batch_size=32", "train.micro_batch_size=4").train, 2))


def test_a_micro_batch_is_a_number_or_auto_and_what_is_neither_is_one_problem():
    assert load().train.micro_batch_size == "auto" and load("train.micro_batch_size=8").train.micro_batch == 8
    assert [load(f"train.micro_batch_size={size}").train.eval_micro_batch for size in (8, 64)] == [32, 64]
    assert load("train.micro_batch_size=8", "train.eval_micro_batch_size=4").train.eval_micro_batch == 4
    for value, reason in (("0", "greater than or equal to 1"), ("many", "'auto'"), ("8.5", "integer"), ("null", "integer")):
        _, (problem,) = read_run_config(None, [f"train.micro_batch_size={value}"])
        assert problem.key == "train.micro_batch_size" and reason in problem.reason and "default is 'auto'" in problem.fix


def test_impossible_combinations_are_found_together():
    own = ("train.batch_size=30", "train.micro_batch_size=8")
    run = load(*own, "train.resume=auto", "method.delta_init=zero", "method.dropout=off")
    keys = {problem.key for problem in combination_problems(run, 1)}
    assert keys == {"train.micro_batch_size", "train.resume", "method.delta_init"}


def test_the_resolved_config_can_be_used_as_a_recipe(tmp_path):
    run = load("optimizer.betas=[0.8, 0.99]", "method.dropout=off", "task=cola", "optimizer.lr=3e-7")
    path = write(tmp_path, as_yaml(run.model_dump(mode="json")))
    assert load(recipe=path) == run


def test_the_demo_runs_on_any_number_of_ranks_that_make_train_starts():
    demo = load_run_config(None, [], ROOT / "launch" / "recipes" / "demo.yaml")
    assert not [problem for ranks in (1, 2, 4, 8) for problem in combination_problems(demo, ranks)]


def test_numbers_with_leading_zeros_are_decimal_and_odd_keys_are_named(tmp_path):
    assert load("seed=08").seed == 8 and load("seed=010").seed == 10
    with pytest.raises(UserError, match="not hold a mapping of options"):
        load(recipe=write(tmp_path, "1: 2\n"))


def test_one_wrong_option_does_not_hide_the_others():
    run, problems = read_run_config(None, ["task=cola", "train.epoch=3", "optimizer.betas=[2, 0.9]", "method.lamb=1", "seed=3"])
    assert {problem.key for problem in problems} == {"train.epoch", "optimizer.betas", "method.lamb"}
    assert run is not None and run.seed == 3 and run.task == "cola" and run.optimizer.betas == (0.9, 0.999)
