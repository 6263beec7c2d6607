"""Custom methods and tasks: they work once registered, and errors name the missing plugin."""

import json
import sys
from importlib.metadata import EntryPoint

import pytest

from mat_ds.config.yaml_files import as_yaml
from mat_ds.errors import UserError
from mat_ds.methods import METHODS
from mat_ds.runs import plugins
from mat_ds.runs.load import load_run_config
from mat_ds.runs.plugins import load_plugins, register_method
from mat_ds.tasks.registry import TASKS
from mat_ds.tasks.spec import TaskSpec
from tests.support.launch import ROOT

METHOD = ROOT / "examples" / "my_method.py"
TASK = ROOT / "examples" / "my_task.py"


@pytest.fixture(autouse=True)
def as_before():
    """Removes what a test has registered."""
    places = (METHODS, TASKS, plugins._origins, plugins._loaded)
    before = [dict(place) for place in places]
    yield
    for place, known in zip(places, before, strict=True):
        place.clear()
        place.update(known)


def refusal(function, *arguments):
    with pytest.raises(UserError) as caught:
        function(*arguments)
    (problem,) = caught.value.problems
    return problem


def written(tmp_path, text, name="mine.py"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_method_from_a_file_can_be_chosen_like_any_other():
    assert "confidence" not in METHODS
    load_plugins([METHOD])
    run = load_run_config(None, ["method.name=confidence", "method.beta=0.5"])
    assert (run.method.name, run.method.beta) == ("confidence", 0.5)
    assert json.loads(run.model_dump_json())["method"] == {"name": "confidence", "beta": 0.5}
    for given, key, words in (
        ("method.beta=-1", "method.beta", "weight of the entropy H"),
        ("method.bta=1", "method.bta", "did you mean 'beta'?"),
        ("method.beta=much", "method.beta", "its default is 0.1"),
    ):
        problem = refusal(load_run_config, None, ["method.name=confidence", given])
        assert problem.key == key and words in problem.fix
    assert "'confidence'" in refusal(load_run_config, None, ["method.name=confidnce"]).fix


def test_a_run_records_the_files_of_its_method_and_task():
    assert load_run_config(None, []).plugins == {}
    load_plugins([METHOD, TASK, METHOD])
    assert load_run_config(None, ["method.name=vanilla"]).plugins == {}
    assert list(load_run_config(None, ["method.name=confidence"]).plugins) == ["my_method.py"]
    both = load_run_config(None, ["method.name=confidence", "task=parity"]).plugins
    assert sorted(both) == ["my_method.py", "my_task.py"] and all(len(digest) == 64 for digest in both.values())


def test_options_that_need_a_plugin_name_it_and_do_not_load_it(tmp_path):
    load_plugins([METHOD, TASK])
    recipe = tmp_path / "config.yaml"
    recipe.write_text(as_yaml(load_run_config(None, ["method.name=confidence", "task=parity"]).model_dump(mode="json")))
    assert load_run_config(recipe, []).task == "parity"
    for place in (plugins._origins, plugins._loaded):
        place.clear()
    del METHODS["confidence"], TASKS["parity"]
    with pytest.raises(UserError) as caught:
        load_run_config(recipe, [])
    assert {problem.key for problem in caught.value.problems} == {"--plugin"}
    assert "pass --plugin <path of my_method.py>" in str(caught.value) and "confidence" not in METHODS
    # Options that do not need the plugin are read.
    assert load_run_config(recipe, ["method.name=vanilla", "task=demo"]).plugins == {}


def test_a_recipe_cannot_load_code(tmp_path):
    marker = tmp_path / "ran"
    path = written(tmp_path, f"open({str(marker)!r}, 'w')\n")
    recipe = written(tmp_path, f"plugins: {{{path.name}: ''}}\nmethod: {{name: mine}}\n", "recipe.yaml")
    assert refusal(load_run_config, recipe, []).key == "--plugin"
    recipe.write_text(f"plugin: {path}\n")
    assert refusal(load_run_config, recipe, []).key == "plugin"
    assert not marker.exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = 1\n\n1 / 0\n", "ZeroDivisionError at line 3"),
        ("def f(:\n", "SyntaxError"),
        ("import nowhere_to_be_found\n", "ModuleNotFoundError at line 1"),
        ("raise SystemExit(3)\n", "SystemExit at line 1"),
        ("x = 1\n", "registers no method and no task"),
        ("import mat_ds\nmat_ds.register_method(dict)\n", "is not a subclass of mat_ds.Method"),
        (
            "import mat_ds\nclass M(mat_ds.Method):\n    class Settings(mat_ds.MethodSettings): pass\n    step = 1\n"
            "mat_ds.register_method(M)\n",
            "has no cost",
        ),
        ("import mat_ds\nclass M(mat_ds.Method): Settings = 1\nmat_ds.register_method(M)\n", "has no `Settings`"),
        (
            "import mat_ds\nclass M(mat_ds.Method):\n    Settings, cost, step = mat_ds.MethodSettings, 3, 1\n"
            "mat_ds.register_method(M)\n",
            "do not say what it is called",
        ),
        ("import mat_ds\nmat_ds.register_task(name='a b', text=['s'], labels=['x', 'y'])\n", "not allowed as a name"),
        ("import mat_ds\nmat_ds.register_task(name='cola', text=['s'], labels=['x', 'y'])\n", "registered already, by mat_ds"),
    ],
)
def test_an_unusable_plugin_is_one_error_and_registers_nothing(text, reason, tmp_path):
    path = written(
        tmp_path,
        "import mat_ds\nmat_ds.register_task(name='fine', text=['s'], labels=['x', 'y'])\n" + text
        if "no method and no task" not in reason
        else text,
    )
    if "at line" in reason:
        line = int(reason.rpartition(" ")[2])
        reason = reason.replace(f"line {line}", f"line {line + 2}")
    problem = refusal(load_plugins, [path])
    assert problem.key == "--plugin" and problem.value == str(path) and reason in problem.reason and problem.fix
    assert "fine" not in TASKS and not any("mine" in name for name in sys.modules if name.startswith("mat_ds_plugin"))


def test_a_name_can_be_registered_only_once(tmp_path):
    load_plugins([METHOD])
    copy = written(tmp_path, METHOD.read_text(), "copy.py")
    assert f"registered already, by {METHOD}" in refusal(load_plugins, [copy]).reason
    assert "registered already" in refusal(register_method, METHODS["confidence"]).reason
    assert "registered already, by mat_ds itself" in refusal(register_method, METHODS["mat"]).reason


def test_a_notebook_cell_may_register_again():
    text = METHOD.read_text()
    for beta in ("0.1", "0.2"):
        cell = compile(text.replace("Field(0.1", f"Field({beta}"), "<cell>", "exec")
        exec(cell, {"__name__": "__main__"})
    assert load_run_config(None, ["method.name=confidence"]).method.beta == 0.2
    assert load_run_config(None, ["method.name=confidence"]).plugins == {"a notebook": ""}


def test_a_missing_file_or_one_that_is_not_python_is_refused(tmp_path):
    assert "no such file" in refusal(load_plugins, [tmp_path / "nowhere.py"]).reason
    assert "does not end in .py" in refusal(load_plugins, [written(tmp_path, "", "mine.txt")]).reason


def test_a_file_that_changed_after_it_was_loaded_is_refused(tmp_path):
    text = "import mat_ds\nmat_ds.register_task(name='fine', text=['s'], labels=['x', 'y'])\n"
    load_plugins([written(tmp_path, text)])
    assert "has changed" in refusal(load_plugins, [written(tmp_path, text + "# more\n")]).reason


def test_plugins_of_installed_packages_are_loaded(tmp_path, monkeypatch):
    written(tmp_path, "import mat_ds\nmat_ds.register_task(name='fine', text=['s'], labels=['x', 'y'])\n", "offered.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    entries = [EntryPoint("fine", "offered", "mat_ds.plugins")]
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries if group == "mat_ds.plugins" else [])
    load_plugins()
    load_plugins()
    assert isinstance(TASKS["fine"], TaskSpec)
    entries.append(EntryPoint("broken", "not_installed_at_all", "mat_ds.plugins"))
    assert "ModuleNotFoundError" in refusal(load_plugins).reason
