"""An encoder-decoder classifies at the end token: a text that contains one, or a tokenizer that adds none, is refused."""

import json

import pytest
from tokenizers import Tokenizer, processors

from mat_ds.cli import main
from mat_ds.errors import ExitCode
from mat_ds.ranks.world import World
from tests.models.test_perturbable import TWO_SIDED, folder_of
from tests.models.test_vocabulary import BATCH, ZERO2, data
from tests.support import run_folders


def options(tmp_path, **splits):
    return [f"model.name={tmp_path / 'model'}", f"data.path={data(tmp_path / 'data', **splits)}", "task=sst2"]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("kind", TWO_SIDED)
def test_a_text_that_contains_an_end_token_is_named_before_anything_starts(kind, split, tmp_path, capsys):
    folder = folder_of(tmp_path / "model", kind, **TWO_SIDED[kind])
    commands = [["train", *ZERO2, *BATCH, "method.name=vanilla"], ["train", "--dry_run", *ZERO2, *BATCH, "method.name=mat"]]
    if split == "validation":
        commands.append(["evaluate", folder])
    for command in commands:
        found = (
            options(tmp_path, **{split: "so </s> fine"})[1:]
            if command[0] == "evaluate"
            else options(tmp_path, **{split: "so </s> fine"})
        )
        assert main([str(part) for part in (*command, *found)]) == ExitCode.USER_ERROR, command
        told = capsys.readouterr().err
        assert "'</s>'" in told and "so </s> fine" in told and "there are 2 of it where others have 1" in told, told


@pytest.mark.parametrize("kind", TWO_SIDED)
def test_predict_refuses_such_a_text_and_accepts_others(kind, tmp_path, capsys):
    folder = folder_of(tmp_path / "model", kind, **TWO_SIDED[kind])
    (tmp_path / "in.txt").write_text("fine\nlong and fine\nso </s> fine\n")
    assert main(["predict", str(folder), str(tmp_path / "in.txt"), "--batch_size", "2"]) == ExitCode.USER_ERROR
    told = capsys.readouterr()
    assert "'</s>'" in told.err and len(told.out.splitlines()) == 2


def test_a_tokenizer_that_adds_no_end_token_is_refused(tmp_path, capsys):
    folder = folder_of(tmp_path / "model", "bart", **TWO_SIDED["bart"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    assert main(["train", "--dry_run", *ZERO2, *BATCH, *options(tmp_path), "method.name=vanilla"]) == ExitCode.USER_ERROR
    assert "does not add" in capsys.readouterr().err


def test_a_pair_may_have_the_end_tokens_that_the_tokenizer_adds(tmp_path, capsys):
    folder = folder_of(tmp_path / "model", "bart", **TWO_SIDED["bart"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    pair = processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> </s> $B </s>", [("<s>", 0), ("</s>", 2)])
    tokenizer.post_processor = pair
    tokenizer.save(str(folder / "tokenizer.json"))
    rows = [{"sentence1": "a", "sentence2": "b", "label": 1}, {"sentence1": "cd", "sentence2": "e", "label": 0}]
    (tmp_path / "data" / "mrpc").mkdir(parents=True)
    for split in ("train", "validation", "test"):
        (tmp_path / "data" / "mrpc" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ready = [*ZERO2, *BATCH, f"model.name={folder}", f"data.path={tmp_path / 'data'}", "task=mrpc", "method.name=vanilla"]
    assert run_folders.prepare(ready, World()).model.built
