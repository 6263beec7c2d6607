"""For any content of a checkpoint's small files, with and without a matching manifest, `verify` and resume agree."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from mat_ds.storage.checkpoints import LATEST, name_of
from mat_ds.storage.integrity import MANIFEST, STATE, entry_of, is_foreign, read_state, verify_checkpoint
from tests.support.small_engine import one_rank
from tests.support.small_run import goes_on, sign, small_run

# Names and numbers that such files hold, and hostile ones.
WORDS = ("engine", "run", "step", "format", "updates", "loss_scale", "files", "elements", "world_size", "evaluations", "score",
         "bytes", "sha256", "error", STATE, MANIFEST, "rank-00000-0.safetensors", "rank-00001-0.safetensors", "../../x",
         "/etc/passwd", "model/config.json", "model//config.json", "./state.json", "", ".", "..", "a\x00b", "\ud800", "table",
         "bias")  # fmt: skip
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from((0, 1, 2, 7, -1, 2**63, 10**400)),
    st.floats(),
    st.sampled_from(WORDS),
    st.text(max_size=5),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)),
    max_leaves=12,
)
SOME = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(SOME, max_examples=1000)


@pytest.fixture(scope="module", autouse=True)
def ranks():
    with one_rank():
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    small_run(folder / "kept")
    return folder / "kept", folder / "run"


def changed(run, change):
    """A copy of the run with a changed newest checkpoint; returns both."""
    kept, copy = run
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(kept, copy)
    change(copy / "checkpoints" / name_of(7))
    return copy, copy / "checkpoints" / name_of(7)


def agree(run, change):
    """Checks that resume takes the newest checkpoint exactly if `verify` calls it whole; returns whether it does."""
    path, seventh = changed(run, change)
    whole = verify_checkpoint(seventh) is None
    foreign = whole and is_foreign(read_state(seventh))
    value, told = goes_on(path)
    assert value == (7 if whole and not foreign else 3), (verify_checkpoint(seventh), told)
    assert ("passed over" in told or "damaged" in told or "another version" in told) == (value == 3)
    return whole and not foreign


def put(tree, path, value):
    """The tree with another value at one position."""
    if not path:
        return value
    if isinstance(tree, dict) and tree:
        key = sorted(tree)[path[0] % len(tree)]
        return {**tree, key: put(tree[key], path[1:], value)}
    if isinstance(tree, list) and tree:
        place = path[0] % len(tree)
        return [*tree[:place], put(tree[place], path[1:], value), *tree[place + 1 :]]
    return value


def json_at(name, path, value, signed):
    """Changes one value of a JSON file."""

    def change(folder):
        tree = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(put(tree, path, value)))
        if signed:
            sign(folder)

    return change


PLACES = st.lists(st.integers(0, 20), max_size=5)


def a_manifest_of_any_shape(run, path, value):
    agree(run, json_at(MANIFEST, path, value, signed=False))


def a_state_of_any_shape(run, path, value):
    agree(run, json_at(STATE, path, value, signed=True))


def any_bytes(run, name, data):
    agree(run, lambda folder: (folder / name).write_bytes(data))


def any_latest(run, data):
    path, _ = changed(run, lambda folder: (folder.parent / LATEST).write_bytes(data))
    value, told = goes_on(path)
    assert value in (3, 7) or "is earlier than every checkpoint" in told


NAMES = st.sampled_from((MANIFEST, STATE, "rank-00000-0.safetensors"))
LATESTS = st.one_of(st.binary(max_size=40), st.from_regex(r"\A\s?step-[0-9]{1,25}\s?\Z").map(str.encode))
CASES = {
    "manifest": (a_manifest_of_any_shape, (PLACES, VALUES)),
    "state": (a_state_of_any_shape, (PLACES, VALUES)),
    "bytes": (any_bytes, (NAMES, st.binary(max_size=200))),
    "latest": (any_latest, (LATESTS,)),
}


@pytest.mark.parametrize("case", CASES)
def test_verify_and_resume_agree(run, case):
    check, strategies = CASES[case]
    SOME(given(st.tuples(*strategies))(lambda drawn: check(run, *drawn)))()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_verify_and_resume_agree_on_many_more_changes(run, case):
    check, strategies = CASES[case]
    MANY(given(st.tuples(*strategies))(lambda drawn: check(run, *drawn)))()


def shard(tensors, name="rank-00000-0.safetensors"):
    def change(folder):
        save_file(tensors, folder / name)
        sign(folder)

    return change


def test_shards_that_match_the_manifest_but_are_malformed_count_as_damaged(run):
    ones = np.ones(15, np.float32)
    for tensors in ({}, {"theta": ones}, {"theta:table": ones}, {"theta:table:x": ones}, {"theta:table:-1": ones},
                    {"theta:table:0": ones.astype(np.float16), "theta:bias:0": ones[:4]},
                    {"theta:table:0": ones.reshape(5, 3), "theta:bias:0": ones[:4]}, {"theta:table:0": ones},
                    {"theta:table:0": ones, "theta:bias:1": ones[:4]}, {"theta:table:0": ones, "theta:bias:0": ones[:3]},
                    {"theta:table:0": ones, "theta:table:5": ones, "theta:bias:0": ones[:4]},
                    {"theta:table:0": ones, "theta:bias:0": ones[:4], "theta:more:0": ones}):  # fmt: skip
        assert not agree(run, shard(tensors)), tensors.keys()


def test_missing_and_extra_files_of_ranks_count_as_damage(run):
    def lost(folder):
        (folder / "rank-00000-0.safetensors").unlink()
        sign(folder)

    def more(folder):
        shutil.copyfile(folder / "rank-00000-0.safetensors", folder / "rank-00001-0.safetensors")
        sign(folder)

    def renamed(folder):
        (folder / "rank-00000-0.safetensors").rename(folder / "rank-00001-0.safetensors")
        sign(folder)

    for change in (lost, more, renamed):
        assert not agree(run, change), change


def test_manifest_names_outside_the_folder_are_not_read(run, tmp_path):
    (tmp_path / "x").write_text("x")
    for name in (
        str(tmp_path / "x"),
        "../../../config.yaml",
        f"../{name_of(3)}/state.json",
        "model/../state.json",
        "./state.json",
    ):

        def change(folder, name=name):
            manifest = json.loads((folder / MANIFEST).read_text())
            (folder / MANIFEST).write_text(json.dumps({**manifest, name: entry_of(folder / name)}))

        assert not agree(run, change), name


def test_a_renamed_checkpoint_is_not_taken_for_that_of_another_step(run):
    kept, copy = run
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(kept, copy)
    (copy / "checkpoints" / name_of(7)).rename(copy / "checkpoints" / name_of(9))
    (copy / "checkpoints" / LATEST).write_text(name_of(9))
    assert "it belongs to step 7" in verify_checkpoint(copy / "checkpoints" / name_of(9)) and goes_on(copy)[0] == 3
