"""Before anything starts, every token must have an embedding, and every tokenizer a vocabulary."""

import json

import pytest
import torch
from transformers import AutoTokenizer

from mat_ds.artifacts.exported import load_classifier
from mat_ds.cli import main
from mat_ds.errors import ExitCode, UserError
from mat_ds.models.build import build_tokenizer
from mat_ds.models.options import ModelConfig
from mat_ds.ranks.world import World
from tests.hostile.strangers import edit, stranger
from tests.models.test_families import save
from tests.support import run_folders
from tests.support.families import build as family_of
from tests.support.launch import ROOT

ZERO2 = ["--ds_config", str(ROOT / "ds_configs" / "zero2.json")]
BATCH = ["train.batch_size=2", "train.micro_batch_size=2", "tracking.uri=none"]


@pytest.fixture
def longer(tmp_path):
    """A model whose tokenizer has two added words without embeddings."""
    folder = stranger(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["[USER]", "[URL]"])
    tokenizer.save_pretrained(folder)
    return folder


def data(folder, train="fine", validation="fine", test="fine"):
    for split, text in {"train": train, "validation": validation, "test": test}.items():
        (folder / "sst2").mkdir(parents=True, exist_ok=True)
        rows = [{"sentence": "a good film", "label": 1}, {"sentence": text, "label": 0}]
        (folder / "sst2" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_token_without_an_embedding_in_any_split_is_named_before_anything_starts(split, longer, tmp_path, capsys):
    found = data(tmp_path / "data", **{split: "seen by [URL]"})
    options = [f"data.path={found}", f"model.name={longer}", "task=sst2", *BATCH]
    commands = [
        ["train", *ZERO2, *options],
        ["train", "--dry_run", *ZERO2, *options],
        ["prepare", tmp_path / "new", *options[:3]],
    ]
    if split == "validation":
        commands.append(["evaluate", longer, "task=sst2", f"data.path={found}"])
    for command in commands:
        assert main([str(part) for part in command]) == ExitCode.USER_ERROR, command
        told = capsys.readouterr().err
        assert "[URL]" in told and "401" in told and "400 tokens" in told and "resize_token_embeddings" in told, told
    assert not (tmp_path / "new").exists()


def test_texts_without_such_tokens_can_be_trained_on(longer, tmp_path):
    options = [f"data.path={data(tmp_path / 'data')}", f"model.name={longer}", "task=sst2", *BATCH]
    assert run_folders.prepare([*ZERO2, *options], World()).model.fresh == []


def test_predicting_a_text_with_such_a_token_is_refused(longer, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("fine\nby [USER]\n")
    assert main(["predict", str(longer), str(tmp_path / "in.txt"), "--batch_size", "1"]) == ExitCode.USER_ERROR
    told = capsys.readouterr()
    assert "[USER]" in told.err and len(told.out.splitlines()) == 1


def test_a_model_with_one_token_type_gets_no_token_types(tmp_path):
    save(tmp_path, "roberta", pad_token="<pad>", eos_token="</s>", model_input_names=["input_ids", "token_type_ids"])
    model, tokenizer = load_classifier(tmp_path, torch.float32, torch.device("cpu"))
    assert "token_type_ids" not in tokenizer("a", "b")
    model(**tokenizer(["a", "b c"], ["b", "d"], padding=True, return_tensors="pt"))


def published(folder, pieces):
    """A DeBERTa-v3 in its published form: with a SentencePiece model and without tokenizer.json."""
    import sentencepiece

    folder.mkdir()
    family_of("deberta-v3").save_pretrained(folder)
    texts = ["the key near the cabinets is golden", "nobody who saw it lifted these lamps", "by themselves"] * 20
    with (folder / pieces).open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=file,
            vocab_size=33,
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            pad_piece="[PAD]",
            bos_piece="[CLS]",
            eos_piece="[SEP]",
            unk_piece="[UNK]",
            minloglevel=2,
        )
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "vocab_type": "spm"}')
    return ModelConfig(name=str(folder))


def test_a_published_sentencepiece_tokenizer_is_read(tmp_path):
    tokenizer = build_tokenizer(published(tmp_path / "model", "spm.model"), ())
    ids = tokenizer("the key near")["input_ids"]
    assert tokenizer.decode(ids) == "[CLS] the key near[SEP]" and len(ids) < len("the key near")
    (tmp_path / "model" / "spm.model").write_bytes(b"no pieces")
    with pytest.raises(UserError, match="tokenizer cannot be loaded"):
        build_tokenizer(ModelConfig(name=str(tmp_path / "model")), ())


@pytest.mark.parametrize("pieces", ["sentencepiece.bpe.model", "tokenizer.model"])
def test_a_vocabulary_under_another_file_name_is_reported_as_missing(pieces, tmp_path):
    with pytest.raises(UserError, match=r"spm\.model, or tokenizer\.json"):
        build_tokenizer(published(tmp_path / "model", pieces), ())


@pytest.mark.parametrize(("kind", "kept"), [("bert", ""), ("roberta", "vocab.json"), ("roberta", "merges.txt")])
def test_a_tokenizer_without_a_vocabulary_is_refused(kind, kept, tmp_path):
    folder = stranger(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    if kept:
        (folder / kept).write_text(
            '{"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4}' if "json" in kept else "#version: 0.2\n"
        )
    edit(folder / "tokenizer_config.json", tokenizer_class=f"{kind.capitalize()}Tokenizer")
    edit(folder / "config.json", model_type=kind)
    with pytest.raises(UserError, match=r"the folder lacks|no tokenizer|cannot be loaded"):
        build_tokenizer(ModelConfig(name=str(folder)), ())
