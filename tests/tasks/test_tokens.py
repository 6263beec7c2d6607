"""A text without any token is a bad row, found before training and prediction."""

import json

import pytest

from mat_ds.cli import main
from mat_ds.commands.evaluate import parse
from mat_ds.errors import ExitCode, UserError
from mat_ds.evaluation.request import find_subject
from mat_ds.evaluation.subject import load_subject
from mat_ds.models.build import build_tokenizer
from mat_ds.models.options import ModelConfig
from mat_ds.tasks.example import Example
from mat_ds.tasks.examples import load_task_data
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.registry import TASKS
from mat_ds.tasks.tokens import tokenless, with_tokens
from tests.commands.test_prepare import prepare, problems, run, told
from tests.conftest import sentence
from tests.models.test_families import save
from tests.support.kinds import CLASSIFICATION
from tests.tasks.test_bad_rows import lines, write

pytestmark = pytest.mark.usefixtures("offline")

# The tokenizer of `save` drops these letters: they are not in its vocabulary, and it has no unknown token.
NOTHING = ["\u200b", "\ufeff\u200d", "\x01\x02", "\u0301", "\u2060\u200e", "789", "東京"]
# Texts that every cleaning tokenizer empties. If a tokenizer adds special tokens, only such texts are checked.
BLANK = NOTHING[:5]
HOLES = {3, 17}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A decoder whose tokenizer adds no special tokens, and an encoder whose tokenizer does."""
    folder = tmp_path_factory.mktemp("models")
    save(folder / "gpt2", "gpt2", eos_token="</s>")
    save(folder / "bert", "bert", eos_token="</s>", pad_token="<pad>")
    rules = json.loads((folder / "gpt2" / "tokenizer.json").read_text())
    (folder / "gpt2" / "tokenizer.json").write_text(json.dumps({**rules, "post_processor": None}))
    return folder


def tokenizer_of(models, family):
    return build_tokenizer(ModelConfig(name=str(models / family)), ())


def cola(folder, split="train", text="\u200b"):
    for name, count in (("train", 40), ("validation", 12), ("test", 12)):
        holes = HOLES if name == split else ()
        rows = [{"sentence": text if i in holes else sentence(i), "label": i % 2} for i in range(count)]
        write(folder, f"cola/{name}.jsonl", lines(*rows))
    return folder


@pytest.mark.parametrize("family, nothing", [("gpt2", NOTHING), ("bert", BLANK)])
def test_examples_without_a_token_are_found(family, nothing, models):
    texts = [text for blank in nothing for text in ("a key", blank, "1")]
    found = list(tokenless(tokenizer_of(models, family), [Example((text,), 0) for text in texts], 16, CLASSIFICATION))
    assert found == list(range(1, len(texts), 3))
    pairs = [Example(pair, 0) for blank in nothing for pair in ((blank, "a"), ("b", blank), (blank, blank))]
    assert list(tokenless(tokenizer_of(models, family), pairs, 16, kind_of(TASKS["mnli"]))) == list(range(2, len(pairs), 3))
    assert not list(tokenless(tokenizer_of(models, family), [], 16, CLASSIFICATION))


def test_examples_are_numbered_correctly_across_chunks(models):
    examples = [Example(("\u200b" if i in (0, 999, 1000, 2500) else "a",), 0) for i in range(2501)]
    assert list(tokenless(tokenizer_of(models, "gpt2"), examples, 16, CLASSIFICATION)) == [0, 999, 1000, 2500]


@pytest.mark.parametrize("split, line", [("train", 4), ("validation", 4), ("test", 4)])
def test_training_and_preparing_name_the_row_before_they_start(split, line, models, tmp_path, capsys):
    options = ("task=cola", f"data.path={cola(tmp_path, split)}", f"model.name={models}/gpt2")
    found = problems(*options)
    assert set(found) == {
        f"{tmp_path}/cola/{split}.jsonl:{n + 1}" for n in sorted(HOLES) if n < (40 if split == "train" else 12)
    }
    problem = found[f"{tmp_path}/cola/{split}.jsonl:{line}"]
    assert "has no tokens" in problem.reason and problem.value == "\u200b"
    assert "no tokens" in told(capsys, tmp_path / "out", *options) and not (tmp_path / "out").exists()


def test_they_are_left_out_and_counted_like_other_bad_rows(models, tmp_path):
    options = ("task=cola", f"data.path={cola(tmp_path / 'raw')}", f"model.name={models}/gpt2", "data.bad_rows=skip")
    data = run(*options).data.examples
    assert len(data.train) == 38 and data.skipped == {"cola/train": {"no tokens": 2}} and data.tallies["cola/train"].kept == 38
    prepare(tmp_path / "out", *options)
    again = run(*options[:1], *options[2:], f"data.path={tmp_path}/out").data.examples
    assert list(again.train) == list(data.train) and again.skipped == data.skipped


def test_none_is_left_out_of_a_test_split_and_no_more_than_half_of_another(models, tmp_path):
    options = (f"model.name={models}/gpt2", "task=cola", "data.bad_rows=skip")
    found = problems(*options, f"data.path={cola(tmp_path / 'one', 'test')}")
    assert len(found) == 2 and "numbered by its rows" in found["cola/test"].reason
    rows = [{"sentence": "\u200b" if i % 3 else "a key", "label": i % 2} for i in range(60)]
    write(cola(tmp_path / "two"), "cola/train.jsonl", lines(*rows))
    found = problems(*options, f"data.path={tmp_path}/two")
    assert len(found) == 6 and "35 more rows are wrong (40 in all: no tokens)" in found["cola/train"].reason


def test_a_repeated_row_is_counted_once(models, tmp_path):
    data = load_task_data(TASKS["cola"], DataConfig(path=str(cola(tmp_path)), bad_rows="skip"))
    twice = type(data)(data.spec, [*data.train, *data.train], data.dev, data.test, data.tallies)
    left = with_tokens(twice, tokenizer_of(models, "gpt2"), 16, DataConfig(bad_rows="skip"))
    assert len(left.train) == 76 and left.skipped == {"cola/train": {"no tokens": 2}}


def test_predicting_and_evaluating_name_the_row(models, tmp_path, capsys):
    write(tmp_path, "in.txt", "a key\n\u200b\n".encode())
    arguments = [f"{models}/gpt2", "--task", "cola"]
    write(tmp_path, "in.jsonl", lines({"sentence": "a key"}, {"sentence": "\u200b"}))
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        models / "gpt2", num_labels=2, pad_token_id=1, ignore_mismatched_sizes=True
    )
    model.config.id2label, model.config.label2id = {0: "unacceptable", 1: "acceptable"}, {"unacceptable": 0, "acceptable": 1}
    model.save_pretrained(tmp_path / "model")
    build_tokenizer(ModelConfig(name=str(models / "gpt2")), ()).save_pretrained(tmp_path / "model")
    arguments[0] = str(tmp_path / "model")
    for name, place in (("in.txt", "in.txt:2"), ("in.jsonl", "in.jsonl:2")):
        assert main(["predict", arguments[0], str(tmp_path / name), *arguments[1:]]) == ExitCode.USER_ERROR
        told_of = capsys.readouterr().err
        assert f"{place} = '\\u200b'" in told_of and "has no tokens" in told_of
    _, options = parse([arguments[0], "task=cola", f"data.path={cola(tmp_path / 'raw', 'validation')}"])
    with pytest.raises(UserError, match="has no tokens"):
        load_subject(find_subject(arguments[0], options), options)
