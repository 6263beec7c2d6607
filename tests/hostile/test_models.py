"""Hostile model folders: no code runs, no question is asked, and no file outside is read."""

import ast
import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from mat_ds.artifacts.exported import load_classifier
from mat_ds.cli import main
from mat_ds.errors import ExitCode, UserError
from mat_ds.models.pretrained import NEVER
from tests.hostile.strangers import MARKER, edit, stranger, with_code
from tests.support.launch import ROOT

CPU, PACKAGE = torch.device("cpu"), ROOT / "mat_ds"
CONFIG = {"AutoConfig": "sparkle.SparkleConfig", "AutoModelForSequenceClassification": "sparkle.SparkleModel"}
TOKENIZER = {"AutoTokenizer": ["sparkle.SparkleTokenizer", None]}
CODE = {
    "an architecture of its own": lambda folder: with_code(folder, **CONFIG),
    "a model of its own": lambda folder: with_code(folder, model_type="roberta", **CONFIG),
    "code on the hub": lambda folder: with_code(folder, AutoConfig="somebody/sparkle--sparkle.SparkleConfig"),
    "classes that transformers has, of an architecture it has not": lambda folder: with_code(
        folder, AutoConfig="sparkle.RobertaConfig"
    ),
    "a tokenizer of its own": lambda folder: with_code(folder, "tokenizer_config.json", **TOKENIZER),
    "a tokenizer, as it was once named": lambda folder: edit(
        with_code(folder, "tokenizer_config.json") / "tokenizer_config.json", auto_map=["sparkle.SparkleTokenizer", None]
    ),
    "a part of its own": lambda folder: edit(
        with_code(folder, model_type="roberta") / "config.json", auto_map=None, text_config={"auto_map": CONFIG}
    ),
}


def refused(folder):
    with pytest.raises(UserError) as error:
        load_classifier(folder, torch.float32, CPU)
    return str(error.value)


@pytest.fixture(autouse=True)
def nobody_is_asked(monkeypatch, capfd):
    """Fails a test in which a library asks on standard input whether to run the model's code."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    yield
    assert "remote_code" not in capfd.readouterr().out


@pytest.mark.parametrize("kind", CODE)
def test_every_command_refuses_a_model_that_needs_its_own_code_and_does_not_run_it(kind, tmp_path, capfd):
    CODE[kind](stranger(tmp_path / "model"))
    folder, file = tmp_path / "model", tmp_path / "in.txt"
    file.write_text("text\n1\n")
    for command in (
        ["predict", folder, file], ["evaluate", folder, "task=sst2"], ["export", folder, tmp_path / "out"],
        ["train", "--ds_config", ROOT / "ds_configs" / "zero2.json", "--dry_run", f"model.name={folder}"],
        ["prepare", tmp_path / "prepared", f"model.name={folder}"],
        ["plan", "--ds_config", ROOT / "ds_configs" / "zero2.json", "--gpus", "1", "--gpu_memory", "16GB", "--link", "10Gb/s",
         f"model.name={folder}"],
    ):  # fmt: skip
        assert main([str(part) for part in command]) == ExitCode.USER_ERROR, command
        told = capfd.readouterr()
        assert "needs code of its own" in told.err and "convert it" in told.err and str(folder) in told.err, (command, told.err)
        assert "code" not in told.out
    assert not (tmp_path / MARKER).exists() and not (tmp_path / "out").exists()


def test_answers_on_standard_input_do_not_make_code_run(surroundings):
    folder = with_code(stranger(surroundings.inside / "model"), **CONFIG)
    done = surroundings.run("predict", folder, "-", "--format", "text", stdin="text\n1\ny\n", code=2)
    assert not done.stdout and "needs code of its own" in done.stderr
    assert not (surroundings.inside / MARKER).exists()


def test_a_model_that_transformers_now_supports_loads_without_its_own_code(tmp_path):
    names = {
        "AutoConfig": "sparkle.RobertaConfig",
        "AutoModelForSequenceClassification": "sparkle.RobertaForSequenceClassification",
    }
    folder = with_code(stranger(tmp_path / "model"), model_type="roberta", **names)
    model, _ = load_classifier(folder, torch.float32, CPU)
    model.save_pretrained(tmp_path / "again")
    assert not (tmp_path / MARKER).exists() and "auto_map" not in (tmp_path / "again" / "config.json").read_text()


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("config.json", {"attn_implementation": "somebody/kernel"}, "somebody/kernel"),
        ("config.json", {"_attn_implementation": {"": "somebody/kernel@main:f"}}, "somebody/kernel"),
        ("config.json", {"_attn_implementation_internal": "flash_attention_2"}, "flash_attention_2"),
        ("config.json", {"text_config": {"experts_implementation": "a/b"}}, "a/b"),
        ("config.json", {"transformers_weights": "../x.safetensors"}, "transformers_weights"),
        ("config.json", {"configuration_files": ["config.4.0.0.json"]}, "configuration_files"),
        ("config.json", {"quantization_config": {"quant_method": "bitsandbytes"}}, "quantised"),
        ("config.json", {"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ("config.json", {"num_labels": 10**12, "id2label": None, "label2id": None}, "num_labels"),
        ("config.json", {"hidden_size": 3 * 10**5, "intermediate_size": 10**6}, "too few"),
        ("config.json", {"model_type": "sparkle"}, "sparkle"),
        ("config.json", {"model_type": ["roberta"]}, "cannot be loaded"),
        ("config.json", {"vocab_size": "many"}, "cannot be loaded"),
        ("config.json", {"id2label": [1, 2]}, "cannot be loaded"),
        ("tokenizer_config.json", {"model_max_length": "long"}, "model_max_length"),
        ("model.safetensors.index.json", {"weight_map": {"a": "../../../etc/passwd"}}, "not a file beside it"),
        ("model.safetensors.index.json", {"weight_map": {"a": "/etc/passwd"}}, "not a file beside it"),
        ("model.safetensors.index.json", {"weight_map": {"a": 3}}, "not a file beside it"),
        ("model.safetensors.index.json", {"metadata": {}}, "no weight_map"),
    ],
)
def test_a_model_that_asks_for_outside_files_or_impossible_settings_is_refused(file, change, told, tmp_path):
    folder = stranger(tmp_path / "model")
    edit(folder / file, **change)
    if "index" in file:
        (folder / "model.safetensors").unlink()
    assert told in refused(folder)


@pytest.mark.parametrize("spoilt", [b"", b"[]", b"{", b"\xff\xfe{}", b"null", b'{"a": ' + b"[" * 100_000, b"\0" * 10])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors"])
def test_a_malformed_file_is_named(file, spoilt, tmp_path):
    folder = stranger(tmp_path / "model")
    (folder / file).write_bytes(spoilt)
    assert str(folder) in refused(folder)


def test_a_header_that_claims_more_data_than_the_file_has_is_refused(tmp_path):
    folder = stranger(tmp_path / "model")
    weights = (folder / "model.safetensors").read_bytes()
    for spoilt in (weights[:-100], b"\xff" * 8 + weights[8:], weights[: len(weights) // 2], weights[:8] + b" " * 100):
        (folder / "model.safetensors").write_bytes(spoilt)
        assert str(folder) in refused(folder)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors", "vocab.txt", "added_tokens.json"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "broken link", "loop"])
def test_pipes_and_sockets_are_not_waited_for(kind, file, tmp_path):
    folder = stranger(tmp_path / "model")
    (folder / file).unlink(missing_ok=True)
    {
        "pipe": lambda path: os.mkfifo(path),
        "folder": lambda path: path.mkdir(),
        "broken link": lambda path: path.symlink_to("/nowhere/at/all"),
        "loop": lambda path: path.symlink_to(path),
    }[kind](folder / file)
    assert file in refused(folder)


class Runs:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (self.marker,))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_in_place_of_weights_does_not_run(zipped, tmp_path):
    folder = stranger(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    state = {"classifier.dense.weight": Runs(str(tmp_path / MARKER))}
    if zipped:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(state))
    assert "cannot be loaded" in refused(folder) and not (tmp_path / MARKER).exists()


@pytest.mark.parametrize("description", ["{}", "[]", '{"task": {"name": "a"}}', '{"task": null, "max_length": 3}', "{", "\0"])
def test_an_invalid_task_description_is_named(description, tmp_path, capfd):
    folder = stranger(tmp_path / "model")
    (folder / "mat_ds.json").write_text(description)
    (tmp_path / "in.txt").write_text("a\n")
    assert main(["predict", str(folder), str(tmp_path / "in.txt")]) == ExitCode.USER_ERROR
    assert "mat_ds.json" in capfd.readouterr().err


def calls(path):
    """The calls in a source file that load something, with their keywords."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called.endswith((".from_pretrained", ".from_config", "get_class_from_dynamic_module", "torch.load")):
                yield called, [ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg is None]


def test_only_one_function_loads_through_transformers_and_never_with_remote_code():
    found = {path.relative_to(PACKAGE): list(calls(path)) for path in PACKAGE.rglob("*.py") if list(calls(path))}
    ours = found.pop(Path("models/pretrained.py"))
    automatic = [given for called, given in ours if called.startswith(("Auto", "_auto_class("))]
    assert len(automatic) == 5 and all("NEVER" in given for given in automatic) and NEVER == {"trust_remote_code": False}
    # The other two use classes that are chosen by one of the five; PEFT loads weights into a model that was loaded there.
    assert len(ours) == 7
    assert found.pop(Path("models/lora.py")) == [
        ("peft.PeftConfig.from_pretrained", []),
        ("peft.PeftModel.from_pretrained", []),
    ]
    # What is stored with a registered model runs without mat_ds, and says so itself.
    served = [path for path in found if path.parent.name == "served_model"]
    assert found.keys() == set(served)
    for path in served:
        source = (PACKAGE / path).read_text()
        assert source.count(".from_pretrained(") == source.count("trust_remote_code=False") == len(found[path])


def test_a_described_model_says_so_in_json(tmp_path):
    folder = stranger(tmp_path / "model")
    assert json.loads((folder / "config.json").read_text())["id2label"] == {"0": "negative", "1": "positive"}
    load_classifier(folder, torch.float32, CPU)
