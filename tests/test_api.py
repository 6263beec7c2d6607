"""The public Python API: what `import mat_ds` imports and offers, and runs started from a script."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import mat_ds
from examples import train_from_python
from mat_ds.api.training import _flags
from mat_ds.methods import METHODS
from mat_ds.runs import plugins
from mat_ds.tasks.registry import TASKS
from mat_ds.training.request import parse_arguments
from tests.support.launch import ROOT, environment

ZERO1 = {"zero_optimization": {"stage": 1}}
SMALL = {
    "data": {"train_limit": 16, "eval_limit": 20},
    "train.batch_size": 8,
    "train.micro_batch_size": 4,
    "train.max_steps": 2,
    "train.eval_micro_batch_size": 20,
    "tracking.uri": "none",
    "model.dropout": 0.0,
}


def test_importing_mat_ds_imports_nothing_that_is_slow():
    slow = {"torch", "numpy", "pydantic", "deepspeed", "transformers"}
    script = f"import sys, mat_ds; dir(mat_ds); assert not {slow} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment(), check=True)


def test_training_imports_peft_for_adapters_alone():
    script = "import sys, mat_ds.training.preflight, mat_ds.training.run; assert 'peft' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment(), check=True)


def test_every_name_that_is_offered_is_there():
    assert {"train", "load", "predict", "evaluate", "Engine", "Sampler", "METHODS", "register_method"} <= set(mat_ds.__all__)
    assert {name for name in mat_ds.__all__ if getattr(mat_ds, name) is None} == set()
    assert set(mat_ds.__all__) == set(mat_ds._PLACES)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        mat_ds.trian  # noqa: B018


def refusal(function, *arguments, **options):
    with pytest.raises(mat_ds.UserError) as caught:
        function(*arguments, **options)
    return {problem.key: problem for problem in caught.value.problems}


def test_wrong_options_raise_the_error_of_the_command_line_and_do_not_exit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = refusal(mat_ds.train, {"train.epochs": -1, "optimizer.lrr": 1}, ds_config=ZERO1, method={"name": "mta"})
    assert "did you mean 'lr'?" in found["optimizer.lrr"].fix and found["train.epochs"].value == -1
    assert found["method.name"].fix == "did you mean 'mat'?"
    assert "is given twice" in refusal(mat_ds.train, {"seed": 1}, seed=2, ds_config=ZERO1)["seed"].reason
    assert "which an option cannot have" in refusal(mat_ds.train, ds_config=ZERO1, seed=object())["seed"].reason
    assert "ds_config" in refusal(mat_ds.train, ds_config={"a": object()})
    assert set(refusal(mat_ds.train, recipe={"seed": 1}, ds_config=ZERO1)) == {"--recipe"}  # options are no recipe
    assert "there is no such option" in refusal(mat_ds.evaluate, tmp_path, atack=1)["atack"].reason
    assert "run" in refusal(mat_ds.Run, tmp_path)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("given", "typed"),
    [
        ({}, ""),
        ({"recipe": "cola", "ds_config": "zero3"}, "--recipe cola --ds_config zero3"),
        ({"plugin": Path("one.py")}, "--plugin one.py"),
        ({"plugin": ["one.py", Path("two.py")], "recipe": "demo"}, "--recipe demo --plugin one.py --plugin two.py"),
    ],
)
def test_recipe_and_ds_config_have_the_same_defaults_as_on_the_command_line(given, typed, tmp_path):
    files = {"recipe": None, "ds_config": None, "plugin": (), **given}
    assert parse_arguments([*_flags(**files, folder=tmp_path)]) == parse_arguments(typed.split())


def test_a_plugin_is_loaded_before_the_options_are_read(tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text("import mat_ds\nmat_ds.register_task(name='from_python', text=['s'], labels=['x', 'y'])\n")
    try:
        assert "there is no such task" in refusal(mat_ds.train, task="from_python")["task"].reason
        found = refusal(mat_ds.train, plugin=plugin, task="from_python", train={"epochs": -1})
        assert set(found) == {"train.epochs", "data.path"}
        assert "from_python" in TASKS
        assert "there is no such file" in refusal(mat_ds.train, plugin=tmp_path / "none.py")["--plugin"].reason
    finally:
        forget(plugin, "from_python")


def forget(plugin, task):
    TASKS.pop(task, None)
    plugins._origins.pop(("task", task), None)
    plugins._loaded.pop(str(plugin), None)


def test_training_outside_the_main_thread_is_refused():
    seen = []
    thread = threading.Thread(target=lambda: seen.append(refusal(mat_ds.train, ds_config=ZERO1)))
    thread.start()
    thread.join()
    assert "is not the main thread" in seen[0]["thread"].reason


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same run twice in one process, from a dictionary and from a file, and the process's state before and after."""
    folder = tmp_path_factory.mktemp("runs")
    before = (dict(os.environ), sys.stdout, sys.stderr)
    first = mat_ds.train(
        SMALL, ds_config=ZERO1, method={"name": "rdrop", "alpha": 0.5}, output_dir=folder / "first", quiet=True
    )
    method = {"method.name": "rdrop", "method.alpha": 0.5}
    second = mat_ds.train(
        SMALL | method, ds_config=ROOT / "ds_configs" / "zero1.json", output_dir=folder / "second", quiet=True
    )
    changed = {
        name
        for name in {*os.environ, *before[0]}
        if os.environ.get(name) != before[0].get(name)
        and (name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") or name.startswith("MASTER"))
    }
    return first, second, changed or (sys.stdout, sys.stderr) != before[1:]


def test_a_run_object_has_the_results_of_its_folder(runs):
    run = runs[0]
    assert run.options["method"]["name"] == "rdrop" and run.results["steps"] == 2
    assert run.score == run.results["export"]["score"]
    assert [event["step"] for event in run.events if event["event"] == "step"] == [1, 2]
    assert mat_ds.Run(str(run.path)) == run


def test_two_runs_of_one_process_are_identical_and_leave_the_process_as_it_was(runs):
    first, second, changed = runs
    weights = [(run.model / "model.safetensors").read_bytes() for run in (first, second)]
    assert weights[0] == weights[1] and not changed


def test_a_trained_model_predicts_texts(runs):
    texts = ["the key is golden", "the key are golden", "nobody saw it"]
    model = mat_ds.load(runs[0].path)
    found = model.predict(texts, batch_size=2)
    assert [set(answer) for answer in found] == [{"label", "probabilities"}] * 3
    assert all(abs(sum(answer["probabilities"].values()) - 1) < 1e-6 for answer in found)
    assert found == runs[0].load().predict([(text,) for text in texts], batch_size=2)
    for one, other in zip(found, mat_ds.predict(runs[0].model, texts), strict=True):  # with other padding
        assert one["label"] == other["label"]
    assert model.predict([]) == []


@pytest.mark.parametrize("texts", ["one text", ["fine", 3], [("a", "pair")], [None]])
def test_predict_refuses_anything_but_a_list_of_texts(runs, texts):
    assert len(refusal(mat_ds.predict, runs[0].path, texts)) == 1


def test_an_evaluation_scores_as_the_run_did_and_writes_its_report(runs):
    found = mat_ds.evaluate(runs[0].path, noise={"rates": []}, **{"attack.radii": [0.01]})
    (split,) = found["splits"].values()
    assert split["clean"]["matthews_correlation"] == pytest.approx(runs[0].score)
    assert [point["radius"] for point in split["attack"]] == [0, 0.01] and split["noise"] == {}
    assert os.path.isfile(f"{found['folder']}/robustness.json")


def test_a_model_of_a_plugins_task_can_be_used_before_the_plugin_is_loaded(tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "import mat_ds\n"
        "def rows(split):\n"
        "    return [{'s': word, 'label': i % 2} for i, word in enumerate('a b c d e f g h'.split())]\n"
        "mat_ds.register_task(name='of_a_plugin', text=['s'], labels=['x', 'y'], test=[], generate=rows)\n"
    )
    options = SMALL | {"train.max_steps": 1, "output_dir": tmp_path / "run"}
    try:
        run = mat_ds.train(options, task="of_a_plugin", plugin=plugin, ds_config=ZERO1, quiet=True)
        forget(plugin, "of_a_plugin")
        untold = refusal(mat_ds.evaluate, run.path, {"noise.rates": [], "attack.radii": []})
        assert "mine.py, which is not loaded" in untold["--plugin"].reason
        found = mat_ds.evaluate(run.path, {"noise.rates": [], "attack.radii": []}, plugin=plugin)
        assert found["splits"]["validation"]["clean"]["accuracy"] == pytest.approx(run.score)
        forget(plugin, "of_a_plugin")
        assert mat_ds.load(run.path, "of_a_plugin", plugin=[plugin]).spec is TASKS["of_a_plugin"]
        forget(plugin, "of_a_plugin")
        assert mat_ds.predict(run.path, ["a"], plugin=plugin)[0]["label"] in ("x", "y") and "of_a_plugin" in TASKS
        assert "there is no such file" in refusal(mat_ds.load, run.path, plugin=tmp_path / "none.py")["--plugin"].reason
    finally:
        forget(plugin, "of_a_plugin")


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train_from_python.main()
    out = capsys.readouterr().out
    assert re.search(r"runs/demo-mat-\S+: score -?\d\.\d{3} after 8 steps", out) and "did you mean 'vanilla'?" in out
    assert (tmp_path / "runs").is_dir()


def test_the_code_blocks_of_the_page_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.setattr("mat_ds.runs.plugins._origins", {})
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "python.md").read_text("utf-8"), re.M | re.S)
    names = {"__name__": "page"}
    try:
        for block in blocks:
            exec(compile(block, "docs/python.md", "exec"), names)
    finally:
        METHODS.pop("confidence", None)
    assert len(blocks) == 5 and names["again"] == names["run"] and len(names["losses"]) == 4
