"""A run with checkpoints is never started anew, and none of its checkpoints is skipped silently."""

import shutil

import pytest

from mat_ds import cli
from mat_ds.config.yaml_files import as_yaml, read_yaml
from mat_ds.errors import ExitCode, UserError
from mat_ds.runs.load import load_run_config
from mat_ds.runs.resume import find_resume
from mat_ds.storage.checkpoints import LATEST, checkpoints_of, name_of
from mat_ds.storage.integrity import verify_checkpoint
from tests.support.small_engine import one_rank
from tests.support.small_run import DS_CONFIG, goes_on, options, sign, small_run


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    with one_rank():
        return small_run(tmp_path_factory.mktemp("run") / "run").path


@pytest.fixture
def run(kept, tmp_path):
    with one_rank():
        yield shutil.copytree(kept, tmp_path / "run")


def latest(run, text):
    (run / "checkpoints" / LATEST).write_text(text)


def resumed(run, resume):
    tree = options(run).model_dump()
    return find_resume(type(options(run)).model_validate({**tree, "train": {**tree["train"], "resume": resume}}), DS_CONFIG)


def test_latest_earlier_than_every_checkpoint_is_refused_and_these_named(run):
    for resume in ("auto", str(run), str(run / "checkpoints")):
        latest(run, name_of(1))
        with pytest.raises(UserError) as told:
            resumed(run, resume)
        assert all(said in str(told.value) for said in (name_of(1), name_of(3), name_of(7), f"train.resume={run}")), resume
    assert resumed(run, str(run / "checkpoints" / name_of(7))) == [run / "checkpoints" / name_of(7)]


def test_latest_that_names_a_missing_checkpoint_is_reported(run, capsys):
    latest(run, name_of(5))
    remark = f"{run}/checkpoints/latest names {name_of(5)}, which is not there; passed over, not deleted"
    assert goes_on(run) == (3, remark)
    assert cli.main(["verify", str(run)]) is ExitCode.OK and name_of(5) in capsys.readouterr().err
    latest(run, name_of(9))
    assert goes_on(run)[0] == 7


@pytest.mark.parametrize("resume", ["auto", "never", "run"])
def test_checkpoints_without_config_yaml_are_refused(run, resume, tmp_path):
    (run / "config.yaml").unlink()
    with pytest.raises(UserError, match="holds a run already" if resume == "never" else rf"{name_of(3)}, {name_of(7)}"):
        resumed(run, str(run) if resume == "run" else resume)


@pytest.mark.parametrize("name", [".{}.old", ".{}.0a1b2c3d.old"])
@pytest.mark.parametrize("step", [3, 7])
def test_a_checkpoint_set_aside_by_a_crash_is_put_back(run, name, step, tmp_path, capsys):
    folder = run / "checkpoints"
    (folder / name_of(step)).rename(folder / name.format(name_of(step)))
    for look in (
        lambda path: goes_on(path)[0] == 7,
        lambda path: cli.main(["verify", str(path)]) == ExitCode.OK,
        lambda path: verify_checkpoint(checkpoints_of(path / "checkpoints" / name_of(step))[0]) is None,
    ):
        copy = shutil.copytree(run, tmp_path / "copy")
        assert look(copy) and sorted(path.name for path in (copy / "checkpoints").iterdir()) == [LATEST, name_of(3), name_of(7)]
        shutil.rmtree(copy)
    assert "2 of 2 are whole" in capsys.readouterr().out


def test_a_checkpoint_of_another_version_is_not_continued(run, capsys):
    state = run / "checkpoints" / name_of(7) / "state.json"
    state.write_text(state.read_text().replace('"format": 2', '"format": 9'))
    sign(state.parent)
    value, told = goes_on(run)
    assert value == 3 and "another version" in told
    assert cli.main(["verify", str(run)]) == ExitCode.OK
    assert [("another version" in line) for line in capsys.readouterr().out.splitlines()[:2]] == [True, False]


def test_a_checkpoint_set_aside_never_replaces_an_existing_one(run):
    folder = run / "checkpoints"
    shutil.copytree(folder / name_of(3), folder / f".{name_of(7)}.old")
    assert goes_on(run) == (7, "")


def test_if_no_eligible_checkpoint_is_intact_the_others_are_named(run):
    latest(run, name_of(3))
    (run / "checkpoints" / name_of(3) / "state.json").unlink()
    value, told = goes_on(run)
    assert value is None and "state.json is missing" in told and f"train.resume={run}/checkpoints/{name_of(7)}" in told


@pytest.mark.parametrize("text", ["", "train: 3", "[]", "train: {resume: auto", "\x00", "train:\n  resume: auto\n"])
def test_a_torn_config_yaml_is_an_error(run, text):
    (run / "config.yaml").write_text(text)
    value, told = goes_on(run)
    assert value is None and "config.yaml" in told and "fix:" in told


@pytest.mark.parametrize("text", ["", "[]", "{", '{"deepspeed_config": 3}', '{"deepspeed_config": {}, "starts": 3}', "{}"])
def test_a_torn_environment_json_is_an_error(run, text):
    (run / "environment.json").write_text(text)
    value, told = goes_on(run)
    assert value is None and "environment.json" in told and "fix:" in told


def test_a_run_without_checkpoints_starts_again_as_the_first_time(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(as_yaml(options(run).model_dump(mode="json")))
    assert resumed(run, "auto") == []


def test_the_config_of_a_run_is_a_recipe_for_another_run_and_still_goes_on_with_its_own(run):
    tree = read_yaml(run / "config.yaml") | {"output_dir": str(run)}
    tree["train"]["resume"] = "auto"
    (run / "config.yaml").write_text(as_yaml(tree))
    another = load_run_config(run / "config.yaml", ())
    assert another.output_dir is None and find_resume(another, DS_CONFIG) == []
    expected = tree | {"output_dir": None, "train": tree["train"] | {"resume": "never"}}
    assert another.model_dump(mode="json") == expected
    same = load_run_config(run / "config.yaml", ["train.resume=auto"])
    assert same.output_dir == str(run) and find_resume(same, DS_CONFIG) == checkpoints_of(run)
    copy = run.parent / "recipe.yaml"  # not the run's own file: an output_dir in it is meant
    shutil.copy(run / "config.yaml", copy)
    assert load_run_config(copy, ()).output_dir == str(run)


@pytest.fixture
def written(run):
    """Writes the run's config.yaml as an earlier version did, with options that no longer exist."""
    before = read_yaml(run / "config.yaml")

    def write(shuffle=True, **method):
        tree = {**before, "method": {**before["method"], **method}, "data": {**before["data"], "shuffle": shuffle}}
        (run / "config.yaml").write_text(as_yaml(tree))

    return write


def test_a_run_continues_if_it_did_not_set_options_removed_since(run, written):
    before, found = load_run_config(run / "config.yaml", ()), resumed(run, "auto")
    written(delta_preconditioner="none", teacher_early_decay=0.99)
    assert resumed(run, "auto") == found != []
    assert load_run_config(run / "config.yaml", ()) == before


@pytest.mark.parametrize("gone", [{"delta_preconditioner": "adam"}, {"teacher_early_decay": 0.5}, {"shuffle": False}])
def test_a_run_that_set_a_removed_option_is_refused_by_name_and_value(run, written, gone):
    asked = options(run)
    written(**gone)
    ((name, value),) = gone.items()
    key = f"data.{name}" if name == "shuffle" else f"method.{name}"
    with pytest.raises(UserError) as resuming:
        find_resume(asked.model_copy(update={"train": asked.train.model_copy(update={"resume": "auto"})}), DS_CONFIG)
    with pytest.raises(UserError) as reading:
        load_run_config(run / "config.yaml", ())
    for told in (resuming, reading):
        (problem,) = told.value.problems
        assert problem.key == key and repr(value) in str(problem) and "the mat_ds that began the run" in problem.fix
