"""The recipes run unchanged, have the published settings, and together cover every task, model, sampler and precision."""

import json

import pytest

from mat_ds.config.yaml_files import read_yaml
from mat_ds.methods import METHODS
from mat_ds.methods.mat import MatSettings
from mat_ds.runs.load import load_run_config
from mat_ds.runs.options import RunConfig, combination_problems
from mat_ds.tasks.registry import TASKS, TRAINING_EXAMPLES
from tests.support.launch import ROOT

PATHS = {path.stem: path for path in sorted((ROOT / "launch" / "recipes").glob("*.yaml"))}
RECIPES = {name: load_run_config(path, []) for name, path in PATHS.items()}
MODELS = {"": "roberta-large", "_bert": "bert-base-uncased"}

# From the authors' logs: epochs, batch, K of theta and of delta, noise ratio, lambda, both betas, evaluations in total. All had
# gamma 1e-5 and 1e-3, radius 1e-5, AdamW, a warm-up of a tenth and then a linear decay, and ran the released code.
PUBLISHED = {
    "cola_bert": (20, 64, 10, 5, 0.2, 3, 0.3, 103),
    "sst2_bert": (5, 32, 10, 5, 0.1, 3, 0.3, 50),
    "qnli_bert": (3, 8, 10, 5, 0.2, 1, 0.3, 150),
    "qqp_bert": (3, 32, 10, 5, 0.1, 1, 0.3, 150),
    "sst2": (5, 32, 5, 5, 0.2, 1, 0.5, 50),
    "qqp": (3, 8, 5, 5, 0.1, 1, 0.3, 150),
}
# The rivals' settings on RoBERTa-large, from their authors' code and papers (SALT's are not published).
RIVALS = {
    "freelb": {"delta_steps": 4, "delta_lr": 2.5e-2, "delta_init_norm": 0.4, "delta_max_norm": 0.3},
    "yopo": {"delta_steps": 4, "layer_steps": 2, "layers": 24, "delta_lr": 1.33e-2, "delta_init_norm": 0.64,
             "delta_max_norm": 0.4},
    "pgd": {"delta_steps": 3, "delta_lr": 5e-2, "delta_init_norm": 0.4, "delta_max_norm": 0.2},
    "freeat": {"delta_steps": 3, "delta_lr": 5e-2, "delta_init_norm": 0.4, "delta_max_norm": 0.2},
    "smart": {"delta_steps": 1, "delta_lr": 1e-3, "delta_init_scale": 1e-5, "delta_max_norm": 1e-5, "mu": 1.0,
              "teacher_decay": 0.999},
    "alum": {"delta_steps": 1, "delta_lr": 1e-3, "delta_init_scale": 1e-5, "delta_max_norm": 1e-5, "lam": 1.0},
    "rdrop": {"alpha": 1.0},
    "r3f": {"lam": 0.7, "noise": "uniform", "noise_scale": 1e-5},
    "r4f": {"lam": 0.7, "noise": "uniform", "noise_scale": 1e-5},
    "salt": {},
    "neftune": {"alpha": 5.0},
    "sam": {"rho": 0.05},
    "awp": {"gamma": 5e-3, "delta_steps": 3, "delta_lr": 5e-2, "delta_init_norm": 0.4, "delta_max_norm": 0.2},
}  # fmt: skip
# Their training: epochs, batch, Adam's betas and epsilon, weight decay, and the head's dropout if it is set separately.
RIVAL_TRAINING = {
    **dict.fromkeys(("freelb", "yopo", "pgd", "freeat"), (10, 16, (0.9, 0.999), 1e-6, 0.1, 0.0)),
    "r3f": (10, 8, (0.9, 0.98), 1e-6, 0.1, 0.0),
    "r4f": (10, 8, (0.9, 0.98), 1e-6, 0.1, 0.0),
    "neftune": (10, 16, (0.9, 0.98), 1e-6, 0.1, 0.0),
    "sam": (10, 16, (0.9, 0.98), 1e-6, 0.1, 0.0),
    "awp": (10, 16, (0.9, 0.98), 1e-6, 0.1, 0.0),
    "rdrop": (10, 16, (0.9, 0.98), 1e-6, 0.01, 0.0),
    "smart": (6, 32, (0.9, 0.999), 1e-8, 0.01, 0.05),
    "alum": (6, 32, (0.9, 0.999), 1e-8, 0.01, None),
    "salt": (6, 32, (0.9, 0.999), 1e-8, 0.01, None),
}
# Vanilla fine-tuning of RoBERTa-large by its authors: step size, batch, number of updates, updates of the warm-up.
VANILLA = {
    "mnli": (1e-5, 32, 123873, 7432),
    "qnli": (1e-5, 32, 33112, 1986),
    "qqp": (1e-5, 32, 113272, 28318),
    "rte": (2e-5, 16, 2036, 122),
    "sst2": (1e-5, 32, 20935, 1256),
    "mrpc": (1e-5, 16, 2296, 137),
    "cola": (1e-5, 16, 5336, 320),
    "stsb": (2e-5, 16, 3598, 214),
}
BASELINES = [name for name in RECIPES if name.startswith("vanilla_")]
OURS = [name for name, run in RECIPES.items() if run.method.name == "mat" and not name.startswith("demo")]
CONTROLS = ["control_lam0", "control_delta0", "control_vanilla_steps", "control_rdrop_steps", "mat_visible"]
# The ranges that the paper searched; it has one K, gamma and beta for both players.
SEARCHED = {"batch": {8, 16, 32, 64}, "K": {5, 10, 15, 20, 30}, "beta": {0.1, 0.3, 0.5, 0.7, 0.9}, "lam": {0.1, 1, 2, 3, 4, 5}}
# For each DeepSpeed JSON that a recipe names, a radius that the pre-flight accepts.
RADII = {"cola_fp16": (3e-4, "zero2_v100_fp16"), "cola_bf16": (3e-3, "zero2_rtx3090_bf16")}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_runs_as_it_is_on_one_two_four_and_eight_ranks(name):
    run = RECIPES[name]
    assert run.task in TASKS
    for ranks in (1, 2, 4, 8):
        assert not list(combination_problems(run, ranks)), ranks


def differences(tree, defaults, *path):
    for key, value in tree.items():
        if isinstance(value, dict) and getattr(defaults, key) is not None:
            yield from differences(value, getattr(defaults, key), *path, key)
        else:
            yield (*path, key), value, getattr(defaults, key)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_only_differences_from_the_defaults_and_names_their_source(name):
    defaults = RunConfig(method=type(RECIPES[name].method)())
    for key, value, default in differences(read_yaml(PATHS[name]), defaults):
        assert value != default or key[-1] == "name" or name.startswith("demo"), key
    text = PATHS[name].read_text(encoding="utf-8")
    said = [
        words
        for words in ("Published log", "Settings unpublished", "Not in the paper")
        if words in " ".join(text.split("\n# "))
    ]
    if name in PUBLISHED:
        assert said == ["Published log"]
    elif name not in (*RADII, *RIVALS, *CONTROLS, *BASELINES, "freelb++") and not name.startswith("demo"):
        assert len(said) == 1 and said != ["Published log"]


def test_every_task_of_glue_has_a_recipe_for_both_models():
    glue = [name for name, spec in TASKS.items() if spec.hub == "nyu-mll/glue"]
    assert len(glue) == 9
    for task in glue:
        for suffix, model in MODELS.items():
            run = RECIPES[task + suffix]
            assert (run.task, run.model.name, run.method.name) == (task, model, "mat")
    assert RECIPES["anli_mixture"].task == "anli_mixture"


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipes_of_published_runs_have_the_published_settings(name):
    epochs, batch, theta_steps, delta_steps, ratio, lam, beta, evaluations = PUBLISHED[name]
    run, mat, gamma = RECIPES[name], RECIPES[name].method, 1e-5
    assert (run.train.epochs, run.train.batch_size) == (epochs, batch)
    assert (mat.theta_steps, mat.delta_steps, mat.lam, mat.beta_s, mat.beta_p) == (theta_steps, delta_steps, lam, beta, beta)
    assert (run.optimizer.lr, mat.delta_lr, mat.delta_init, mat.delta_init_scale) == (gamma, 1e-3, "normal", 1e-5)
    assert (mat.delta_max_norm, mat.delta_projection, mat.delta_gradient) == (1e-5, "rescale", "linf")
    # Their noise is given relative to the step size.
    assert mat.theta_noise == pytest.approx(ratio * gamma) and mat.delta_noise == pytest.approx(ratio * 1e-3)
    assert run.train.eval_per_epoch == evaluations // epochs
    assert mat.semantics == "released" and (mat.dropout, mat.theta_dropout) == ("independent", "independent")
    assert run.optimizer == RunConfig().optimizer and run.optimizer.name == "adam" and run.optimizer.schedule == "linear"
    assert (run.optimizer.warmup_ratio, run.optimizer.weight_decay, run.optimizer.max_grad_norm) == (0.1, 0.01, 0.0)


@pytest.mark.parametrize("name", [name for name in OURS if name not in (*CONTROLS, "cola_lora")])
def test_unpublished_settings_are_within_the_papers_search_range(name):
    run, mat = RECIPES[name], RECIPES[name].method
    assert run.optimizer.lr in (1e-5, 3e-5, 5e-5) or run.optimizer.name == "sgd"
    assert run.train.batch_size in SEARCHED["batch"]
    assert {mat.theta_steps, mat.delta_steps} <= SEARCHED["K"] and {mat.beta_s, mat.beta_p} <= SEARCHED["beta"]
    assert mat.lam in SEARCHED["lam"]


def test_each_sampler_has_one_recipe():
    assert {run.optimizer.name for run in RECIPES.values()} == {"sgd", "rmsprop", "adam"}


@pytest.mark.parametrize("name", RADII)
def test_half_precision_has_a_visible_radius_and_other_sizes_in_proportion(name):
    radius, profile = RADII[name]
    half, full, default = RECIPES[name].method, RECIPES["cola"].method, MatSettings()
    assert half.delta_max_norm == half.delta_init_scale == radius
    scale = radius / default.delta_max_norm
    assert half.delta_lr == pytest.approx(scale * default.delta_lr)
    # sqrt(2 gamma) epsilon, the size of the noise
    assert half.delta_lr**0.5 * half.delta_noise == pytest.approx(scale * full.delta_lr**0.5 * full.delta_noise, rel=0.02)
    scaled = {"delta_lr", "delta_noise", "delta_init_scale", "delta_max_norm"}
    assert half.model_dump(exclude=scaled) == full.model_dump(exclude=scaled)
    assert RECIPES[name].model_copy(update={"method": full}) == RECIPES["cola"]
    assert f"--ds_config {profile}" in PATHS[name].read_text(encoding="utf-8")
    assert json.loads((ROOT / "ds_configs" / f"{profile}.json").read_text())[name.removeprefix("cola_")]["enabled"]


@pytest.mark.parametrize("name", RIVALS)
def test_every_rival_has_a_recipe_with_its_published_settings(name):
    method = RECIPES[name].method
    assert method.name == name and set(RIVALS) | {"mat", "vanilla"} == set(METHODS)
    assert {key: getattr(method, key) for key in RIVALS[name]} == RIVALS[name]


@pytest.mark.parametrize("name", RIVALS)
def test_rivals_are_trained_with_their_authors_settings(name):
    run, opt = RECIPES[name], RECIPES[name].optimizer
    published = (run.train.epochs, run.train.batch_size, opt.betas, opt.eps, opt.weight_decay, run.model.head_dropout)
    assert set(RIVAL_TRAINING) == set(RIVALS) and published == RIVAL_TRAINING[name]
    assert opt.lr == 1e-5 and opt.schedule == "linear"
    assert opt.max_grad_norm == (1.0 if name in ("smart", "alum") else 0.0)


def test_freelb_plus_plus_is_its_authors_freelb_without_a_ball_and_with_more_steps():
    run, opt = RECIPES["freelb++"], RECIPES["freelb++"].optimizer
    assert run.method.name == "freelb" and run.method.delta_steps > RECIPES["freelb"].method.delta_steps
    s = run.method
    assert (s.delta_lr, s.delta_init_norm, s.delta_max_norm, s.delta_norm) == (0.03, 0.05, 0.0, "l2")
    assert (run.train.epochs, run.train.batch_size, opt.lr, opt.eps, opt.weight_decay) == (10, 32, 2e-5, 1e-8, 1e-6)
    assert (opt.warmup_ratio, opt.max_grad_norm) == (0.1, 1.0)


def test_only_one_recipe_of_a_published_task_uses_the_algorithm_as_printed():
    published = {RECIPES[name].task for name in PUBLISHED}
    printed = [name for name in OURS if RECIPES[name].task in published and RECIPES[name].method.semantics == "paper"]
    assert printed == ["sst2_sgd"]


def test_the_anli_mixture_is_that_of_its_authors():
    for run in (RECIPES["anli_mixture"], RECIPES["vanilla_anli_mixture"]):
        assert (run.task, run.data.max_length) == ("anli_mixture", 156)
    mixture = TASKS["anli_mixture"]
    assert dict(mixture.train) == {"train_r1": 10, "train_r2": 20, "train_r3": 10}
    assert dict(mixture.also_train_on) == {"mnli": 1, "snli": 1, "fever_nli": 1}


def test_every_task_and_model_with_a_recipe_has_a_baseline_with_a_searched_step_size():
    for name in OURS:
        run = RECIPES[name]
        suffix = "_bert" if run.model.name == MODELS["_bert"] else ""
        baseline = RECIPES[f"vanilla_{run.task}{suffix}"]
        assert (baseline.task, baseline.method.name) == (run.task, "vanilla") and baseline.model.name == run.model.name
        assert baseline.data == run.data
    for task in {RECIPES[name].task for name in OURS}:
        assert any(2e-5 <= RECIPES[name].optimizer.lr <= 5e-5 for name in BASELINES if RECIPES[name].task == task)


@pytest.mark.parametrize("name", [name for name in BASELINES if name.endswith("_bert")])
def test_berts_baselines_are_within_its_authors_search_range_and_have_a_search_space(name):
    run = RECIPES[name]
    tried = {option: found["choices"] for option, found in read_yaml(ROOT / "launch/sweeps/vanilla.yaml")["options"].items()}
    assert tried == {"optimizer.lr": [2e-5, 3e-5, 4e-5, 5e-5], "train.batch_size": [16, 32], "train.epochs": [3, 4]}
    assert run.optimizer.lr in tried["optimizer.lr"] and run.train.batch_size in tried["train.batch_size"]
    assert run.train.epochs in tried["train.epochs"]
    assert run.optimizer == RunConfig().optimizer.model_copy(update={"lr": run.optimizer.lr, "max_grad_norm": 1.0})


@pytest.mark.parametrize("task", VANILLA)
def test_robertas_baselines_are_those_of_its_authors(task):
    run, (lr, batch, updates, warmup) = RECIPES[f"vanilla_{task}"], VANILLA[task]
    assert (run.optimizer.lr, run.train.batch_size, run.model.head_dropout) == (lr, batch, 0.0)
    assert (run.optimizer.betas, run.optimizer.eps, run.optimizer.weight_decay) == ((0.9, 0.98), 1e-6, 0.1)
    assert run.optimizer.warmup_ratio == pytest.approx(warmup / updates, abs=1e-3) and run.optimizer.max_grad_norm == 0.0
    # For RTE they publish more updates than make up the ten epochs that they state.
    if task != "rte":
        assert run.train.epochs * TRAINING_EXAMPLES[task] / batch == pytest.approx(updates, rel=0.02)


def test_control_recipes_differ_only_in_what_they_control_for():
    mat, lam0, delta0 = (RECIPES[name] for name in ("cola_bert", "control_lam0", "control_delta0"))
    assert lam0 == mat.model_copy(update={"method": mat.method.model_copy(update={"lam": 0.0})})
    assert delta0 == mat.model_copy(update={"method": mat.method.model_copy(update={"delta_steps": 0, "delta_init": "zero"})})
    visible = {"delta_noise", "delta_init_scale", "delta_max_norm", "delta_projection", "dropout", "theta_dropout"}
    seen = RECIPES["mat_visible"]
    assert seen.method.model_dump(exclude=visible) == mat.method.model_dump(exclude=visible)
    assert seen.model_copy(update={"method": mat.method}) == mat
    for name in ("control_vanilla_steps", "control_rdrop_steps"):
        run = RECIPES[name]
        assert run.train.epochs == mat.train.epochs * mat.method.theta_steps
        assert (run.optimizer, run.train.batch_size, run.model) == (mat.optimizer, mat.train.batch_size, mat.model)
