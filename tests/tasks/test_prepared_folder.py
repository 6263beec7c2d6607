"""Prepared folders: written completely or not at all, verified, moved, replaced, and read."""

import hashlib
import json
import shutil

import pyarrow
import pytest

from mat_ds.cli import main
from mat_ds.commands.evaluate import parse
from mat_ds.doctor.inputs import check_data
from mat_ds.doctor.rows import Status
from mat_ds.errors import ExitCode, UserError
from mat_ds.evaluation.request import find_subject
from mat_ds.evaluation.subject import load_subject
from mat_ds.models.build import build_model, build_tokenizer
from mat_ds.models.options import ModelConfig
from mat_ds.runs.load import load_run_config
from mat_ds.tasks import stored
from mat_ds.tasks.examples import load_task_data
from mat_ds.tasks.hub import Hub
from mat_ds.tasks.manifest import find_manifest
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.registry import TASKS, find_task
from tests.commands.test_prepare import prepare, problems, run, same, told
from tests.support.launch import ROOT
from tests.tasks.test_bad_rows import lines, write

pytestmark = pytest.mark.usefixtures("offline")

REAL = ROOT.parent / "shared" / "data"


@pytest.fixture
def out(raw, hub, tmp_path):
    prepare(tmp_path / "out", "task=cola", f"data.path={raw}", f"model.name={hub}")
    return tmp_path / "out"


def load(spec, folder, **data):
    return load_task_data(spec, DataConfig(path=str(folder), **data))


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_manifest_records_rows_files_and_options(out, raw, hub):
    manifest = find_manifest(str(out))
    found = contents(out)
    found.pop("manifest.json")
    assert {name: (file.bytes, file.sha256) for name, file in manifest.files.items()} == {
        name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in found.items()
    }
    assert {name: (tally.rows, tally.kept) for name, tally in manifest.splits.items()} == {
        "cola/train": (90, 90),
        "cola/validation": (21, 21),
        "cola/test": (9, 9),
    }
    assert manifest.options == {
        "task": "cola", "data.path": str(raw), "data.max_length": 512, "data.bad_rows": "refuse", "model.name": str(hub),
    }  # fmt: skip
    assert manifest.max_length == 20 and set(manifest.tasks) == {"cola"}, "what the model takes"


def test_other_folders_are_never_overwritten(out, raw, hub, tmp_path, capsys):
    options = ("task=cola", f"data.path={raw}", f"model.name={hub}")
    for taken in (hub, raw / "cola" / "train.jsonl"):
        before = contents(hub.parent)
        assert "exists and is not a prepared folder" in told(capsys, taken, *options)
        assert contents(hub.parent) == before
    (tmp_path / "empty").mkdir()
    prepare(tmp_path / "empty", *options)
    assert find_manifest(str(tmp_path / "empty"))


def test_a_prepared_folder_is_replaced_as_a_whole_or_kept(out, raw, hub, monkeypatch, capsys):
    (out / "note").write_text("mine")
    before = contents(out)

    def fail(*args, **more):
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr("mat_ds.commands.prepare.store_examples", fail)
        options = ("task=stsb", f"data.path={raw}", f"model.name={hub}")
        assert main(["prepare", str(out), *options]) == ExitCode.FAILED
    assert contents(out) == before and "disk full" in capsys.readouterr().err
    prepare(out, *options)
    assert set(find_manifest(str(out)).tasks) == {"stsb"} and not (out / "note").exists()
    assert {path.name for path in out.parent.iterdir()} == {"out"}


def test_all_errors_are_reported_before_anything_is_written(out, raw, tmp_path, capsys, monkeypatch):
    write(tmp_path, "bad/cola/train.jsonl", lines("oops", {"sentence": "a", "label": 1}))
    bad = (tmp_path / "new", "task=cola", f"data.path={tmp_path}/bad")
    for more, parts in ((["model.name=./nowhere", "train.epoch=3"], ["no such folder"]), ([], ["train.jsonl:1", "cola/valid"])):
        assert all(part in told(capsys, *bad, *more) for part in ["2 problems", *parts])
    assert not (tmp_path / "new").exists()
    text = told(capsys, out, f"data.path={out}", f"model.name={out}/model", "task=cola")
    assert "is prepared already" in text and "which would be replaced" in text
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert "in a single process" in told(capsys, tmp_path / "new", "task=nosuch")
    assert "mat-ds prepare prepared/cola" in told(capsys, "--verify")


def test_an_incomplete_copy_is_found_at_the_start_and_a_changed_byte_by_verify(out, tmp_path, hub, capsys):
    moved = tmp_path / "elsewhere" / "cola"
    shutil.copytree(out, moved)
    options = ("task=cola", f"data.path={moved}", f"model.name={hub}")
    prepare(moved, "--verify")
    assert "files, " in capsys.readouterr().out and len(run(*options).data.examples.train) == 90
    name = "data/train/cola/train/data-00000-of-00001.arrow"
    whole = (moved / name).read_bytes()
    (moved / name).write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
    assert len(run(*options).data.examples.train) == 90, "sizes are all that is compared"
    assert f"{name}" in told(capsys, moved, "--verify")
    (moved / name).write_bytes(whole[:-8])
    (moved / "data/dev/cola/validation/state.json").unlink()
    found = problems(*options)
    assert f"has {len(whole) - 8:,} bytes, and had {len(whole):,}" in found[f"{moved}/{name}"].reason
    assert "is missing" in found[f"{moved}/data/dev/cola/validation/state.json"].reason
    assert "2 problems" in told(capsys, moved, "--verify")


def test_a_manifest_of_another_program_is_ignored_and_a_damaged_one_refused(out, raw, hub, tmp_path, capsys):
    shutil.copytree(raw, tmp_path / "raw")
    options = ("task=cola", f"data.path={tmp_path}/raw", f"model.name={hub}")
    for foreign in ("{}", "[1]", '{"files": []}'):
        (tmp_path / "raw" / "manifest.json").write_text(foreign)
        assert len(run(*options).data.examples.train) == 90
    assert "has no manifest.json of mat-ds" in told(capsys, tmp_path / "raw", "--verify")
    text = (out / "manifest.json").read_text()
    for damaged, reason in ((text[:-9], "cannot be read"), (text.replace('"max_length"', '"maximum"'), "cannot be read"),
                            (text.replace('prepared": 1', 'prepared": 2'), "another version")):  # fmt: skip
        (out / "manifest.json").write_text(damaged)
        found = problems("task=cola", f"data.path={out}", f"model.name={hub}")
        assert set(found) == {f"{out}/manifest.json"} and reason in found[f"{out}/manifest.json"].reason


@pytest.mark.parametrize("pattern", [0x01, 0x20, 0x80])
def test_with_a_changed_byte_a_prepared_folder_is_never_read_as_plain_files(out, tmp_path, pattern):
    whole = (out / "manifest.json").read_bytes()
    before, after = find_manifest(str(out)), 0
    for place in range(0, len(whole), 7):
        torn = bytearray(whole)
        torn[place] ^= pattern
        (tmp_path / "manifest.json").write_bytes(torn)
        try:
            found = find_manifest(str(tmp_path))
        except UserError as error:
            assert "manifest.json" in str(error) and "prepare" in str(error)
            after += 1
        else:  # still a valid manifest, whose values are compared with the files and the run
            assert found is not None and found != before, place
    assert after > 20
    mark = whole.index(b"mat_ds_prepared")
    (tmp_path / "manifest.json").write_bytes(whole[:mark] + b"not_" + whole[mark + 4 :])
    with pytest.raises(UserError, match="another version"):
        find_manifest(str(tmp_path))


def test_an_evaluation_tokenises_the_prepared_texts_itself(out, raw, hub, tmp_path):
    """For any model and length, since the stored tokens are those of the model that the folder was prepared for."""
    options = ModelConfig(name=str(hub))
    tokenizer = build_tokenizer(options, ())
    for part in (build_model(options, TASKS["cola"], tokenizer, 0).module, tokenizer):
        part.save_pretrained(tmp_path / "run" / "model")
    config = {"task": "cola", "data": {"path": str(out), "eval_limit": 20}, "model": {"name": str(hub)}}
    (tmp_path / "run" / "config.yaml").write_text(json.dumps(config))
    expected = load(TASKS["cola"], raw, eval_limit=20).dev["validation"]
    for arguments in ((tmp_path / "run",), (tmp_path / "run" / "model", "task=cola", f"data.path={out}", "limit=20")):
        parsed, options = parse([*map(str, arguments), "data.max_length=6"])
        found = load_subject(find_subject(parsed.model, options), options)
        assert list(found.splits) == ["validation"] and found.max_length == 6
        assert list(found.splits["validation"]) == expected
        assert all(example.tokens is None for example in found.splits["validation"])


@pytest.mark.parametrize("task", ["cola", "mrpc", "rte", "stsb"])
def test_the_real_files_of_a_task_train_alike_when_prepared(task, tmp_path):
    if not (REAL / task).is_dir():
        pytest.skip(f"no real {task} at {REAL}")
    prepare(tmp_path / "out", f"task={task}", f"data.path={REAL}", "model.name=tiny-roberta")
    one = run(f"task={task}", f"data.path={REAL}", "model.name=tiny-roberta")
    other = run(f"task={task}", f"data.path={tmp_path}/out", f"model.name={tmp_path}/out/model")
    assert same(one, other, steps=3)
    one, other = one.data.examples, other.data.examples
    assert len(one.train) == len(other.train) > 2000
    assert one.tallies == other.tallies and list(one.test) == list(other.test) == ["test"]


def test_all_sources_of_a_mixture_are_prepared_in_order(hub, tmp_path, monkeypatch):
    for r in ("r1", "r2", "r3"):
        for part in ("train", "dev", "test"):
            write(tmp_path, f"raw/anli/{part}_{r}.jsonl", lines({"premise": r, "hypothesis": part, "label": 1}))
    for task in ("mnli", "snli", "fever_nli"):
        first, second = TASKS[task].text
        rows = [{first: task, second: str(i), "label": label} for i, label in enumerate((2, -1, 0))]
        write(tmp_path, f"raw/{task}/train.jsonl", lines(*rows if task == "snli" else rows[::2]))
    options = ("task=anli_mixture", f"model.name={hub}")
    prepare(tmp_path / "out", *options, f"data.path={tmp_path}/raw")
    spec, read = TASKS["anli_mixture"], []
    monkeypatch.setattr(stored, "_load_table", lambda path, original=stored._load_table: read.append(path) or original(path))
    for limit in (None, 2, 35, 44):
        one, other = (load(spec, tmp_path / name, train_limit=limit) for name in ("raw", "out"))
        assert list(one.train) == list(other.train) and len(one.train) == (limit or 46)
        splits = one.dev | one.test
        assert splits == {name: list(found) for name, found in (other.dev | other.test).items()} and len(splits) == 6
        assert len(read) == len(set(read)) == 12, "what is shown twenty times is read once"
        read.clear()
    assert other.skipped == one.skipped == {"snli/train": {"no agreed label": 1}}
    (row,) = check_data(load_run_config(None, [*options, f"data.path={tmp_path}/out"]), Hub("the hub", offline=True))
    assert row.status is Status.PASS, "what the doctor says of it"


def test_a_split_may_be_both_dev_and_test_split(hub, tmp_path):
    """Its examples have labels as a dev split, and none as a test split."""
    (tmp_path / "own.yaml").write_text("text: [sentence]\nlabels: [a, b]\ntest: [validation]\n")
    for split in ("train", "validation"):
        write(tmp_path, f"raw/own/{split}.jsonl", lines(*({"sentence": str(i), "label": i % 2} for i in range(4))))
    prepare(tmp_path / "out", f"task={tmp_path}/own.yaml", f"model.name={hub}", f"data.path={tmp_path}/raw")
    data = load(find_task(f"{tmp_path}/own.yaml"), tmp_path / "out")
    assert [example.label for example in data.dev["validation"]] == [0, 1, 0, 1]
    assert [example.label for example in data.test["validation"]] == [None] * 4


def test_examples_are_read_from_their_files_on_access(tmp_path, hub):
    rows = [{"sentence": f"{i} " + "some words " * 40, "label": i % 2} for i in range(5000)]
    for split in ("train", "validation"):
        write(tmp_path, f"raw/cola/{split}.jsonl", lines(*rows))
    prepare(tmp_path / "out", "task=cola", f"model.name={hub}", f"data.path={tmp_path}/raw")
    before = pyarrow.total_allocated_bytes()
    data = load(TASKS["cola"], tmp_path / "out")
    assert data.train[4999].texts == (rows[4999]["sentence"],) and len(data.train) == 5000
    assert pyarrow.total_allocated_bytes() - before < 100_000
    assert data.train[1:6:2] == [data.train[i] for i in (1, 3, 5)] and data.train[-2:] == [data.train[4998], data.train[4999]]
    with pytest.raises(IndexError):
        data.train[5000]


def test_the_digest_of_the_data_is_the_same_as_in_earlier_versions(out, hub):
    found = run("task=cola", f"data.path={out}", f"model.name={hub}")
    data = found.data.examples
    digest = hashlib.sha256(data.spec.model_dump_json().encode())
    for examples in (data.train, *data.dev.values(), *data.test.values()):
        digest.update(repr([(example.texts, example.label) for example in examples]).encode())
    digest.update(json.dumps(found.data.tokenizer.get_vocab(), sort_keys=True).encode())
    assert found.start.data_digest == digest.hexdigest()
