"""Token classification: words and their tags, where they are among tokens."""

import json

import numpy as np
import pytest
import tokenizers
from seqeval.metrics.sequence_labeling import get_entities
from transformers import PreTrainedTokenizerFast

from mat_ds.errors import UserError
from mat_ds.evaluation.noise import noised
from mat_ds.models.build import build_tokenizer
from mat_ds.models.options import ModelConfig
from mat_ds.tasks.conll import read_conll
from mat_ds.tasks.example import BadRow, Example
from mat_ds.tasks.examples import load_task_data
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.kinds.words import is_bio, lead_of, spans, word_starts
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.rows import make_example
from mat_ds.tasks.written import read_spec
from tests.support.words import BIO, CONLL, FOUND, KIND, SPEC, pairs
from tests.tasks.test_bad_rows import lines, write


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(ModelConfig(), ["Anna Smith lives in Oslo and likes it"] * 30)


def test_conll_files_and_list_columns_give_the_same_examples(tmp_path):
    rows = [{"tokens": ["Anna", "Smith", "lives"], "tags": ["B-PER", "I-PER", "O"]}, {"tokens": ["Oslo"], "tags": ["B-LOC"]}]
    write(tmp_path, "own/train.conll", CONLL.replace("\n", "\r\n").encode())
    write(tmp_path, "own/validation.jsonl", lines(*rows))
    data = load_task_data(SPEC, DataConfig(path=str(tmp_path)))
    assert pairs(data.train) == pairs(data.dev["validation"]) == FOUND
    assert [example.where.rpartition(":")[2] for example in data.train] == ["3", "7"]


@pytest.mark.parametrize("content, reason", [
    ("a O\nb\n", "line 2 of the sentence has 1 columns, the first 2"),
    ("a O\n" * 60_000, "blank lines between sentences may be missing"), ("a \udcff\n", "not UTF-8"),
])  # fmt: skip
def test_a_bad_sentence_is_named_and_spoils_no_other(content, reason, tmp_path):
    path = tmp_path / "x.conll"
    path.write_bytes(f"ok O\n\n{content}\nok O\n".encode(errors="surrogateescape"))
    first, bad, last = (row for _, row in read_conll(path))
    assert isinstance(bad, BadRow) and reason in bad.reason and first == last == {"tokens": ["ok"], "tags": ["O"]}


@pytest.mark.parametrize("tokens, tags, reason", [
    (["a", "b"], ["O"], "there are 1 labels for 2 words"), (["a"], ["B-ORG"], "label 1 of 1, 'B-ORG', is none of"),
    (["a"], "O", "the labels are not a list"), ([], [], "tokens is blank"),
    (["a", " "], ["O", "O"], "word 2 of 2 in tokens is blank"),
    (["a", 1], ["O", "O"], "word 2 of 2 in tokens is not a text"), (None, ["O"], "tokens is neither a list"),
])  # fmt: skip
def test_rows_that_are_none_are_refused_with_the_reason(tokens, tags, reason):
    found = make_example(SPEC, {"tokens": tokens, "tags": tags}, labelled=True)
    assert isinstance(found, BadRow) and reason in found.reason


def test_words_may_be_a_text_split_at_blanks_or_a_json_list_in_a_cell():
    for value in ("Anna  Smith\u00a0lives", '["Anna", "Smith", "lives"]'):
        assert make_example(SPEC, {"tokens": value}, labelled=False).texts == ("Anna", "Smith", "lives")


def byte_level(**how):
    """A tokenizer whose words begin with their blank, as RoBERTa's."""
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(**how)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(special_tokens=["<s>", "<pad>"], initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator(["a keys the keys near a"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=trained, pad_token="<pad>")


@pytest.mark.parametrize("prefixed", [False, True])
def test_a_list_of_words_gives_the_tokens_of_its_text(prefixed, tokenizer):
    words = ("the", "keys", "near")
    for one in (byte_level(add_prefix_space=prefixed), tokenizer):
        found = KIND.encode(one, [Example(words, None)], 64)
        assert found["input_ids"][0] == one(" ".join(words))["input_ids"]
        assert [number for number in found["words"][0] if number] == [1, 2, 3]
    assert lead_of(byte_level(add_prefix_space=False)) == " " and lead_of(tokenizer) == ""


def test_the_first_token_of_each_word_is_found_and_words_without_a_token_have_none():
    assert word_starts([None, 0, 0, 1, 3, 3, None]) == [0, 1, 0, 2, 4, 0, 0]


def test_labels_are_at_the_first_token_of_each_word_and_words_past_the_end_have_none(tokenizer):
    examples = [Example(("Anna", "Smith", "lives"), (1, 2, 0)), Example(("Oslo",), (3,))]
    inputs, labels = KIND.collate(tokenizer, examples, 64)
    for row, example in enumerate(examples):
        pieces, at = tokenizer.convert_ids_to_tokens(inputs["input_ids"][row]), labels[row, :, 0].tolist()
        assert [pieces[position][0] for position in at[: len(example.texts)]] == [word[0] for word in example.texts]
        assert labels[row, : len(example.texts), 1].tolist() == list(example.label)
    assert labels[1, 1:].tolist() == [[-1, 0], [-1, 0]]
    _, short = KIND.collate(tokenizer, examples[:1], int(labels[0, 2, 0]) + 1)  # the end token takes the third word's place
    assert short[0, :, 0].tolist() == [*labels[0, :2, 0].tolist(), -1]
    assert KIND.unread(tokenizer, examples, int(labels[0, 2, 0]) + 1) == 1


TAGS = st_tags = ["O", "B-X", "I-X", "E-X", "S-X", "B-Y", "I-Y"]


def test_spans_are_those_of_the_usual_evaluation():
    generator = np.random.default_rng(0)
    for _ in range(500):
        tags = generator.choice(TAGS, generator.integers(1, 9)).tolist()
        assert [(kind, first, end - 1) for kind, first, end in spans(tags)] == get_entities(tags), tags


def test_bio_is_recognised_and_its_metrics_are_refused_for_other_labels():
    assert is_bio(BIO) and not is_bio(("NN", "VB")) and not is_bio(("O", "NN")) and not is_bio(("B-X", "I-X"))
    tree = {"name": "own", "kind": "token_classification", "tokens": "words", "tags": "pos", "labels": ["NN", "VB"]}
    spec = read_spec(tree, "a.yaml")
    assert (spec.text, spec.label, spec.metrics) == (("words",), "pos", ("accuracy",))
    assert read_spec({**tree, "labels": list(BIO)}, "a.yaml").metrics == ("seqeval_f1",)
    assert "counts spans" in next(iter(kind_of(spec.model_copy(update={"metrics": ("seqeval_f1",)})).problems())).reason
    for wrong, told in (({"text": ["x"]}, "both name"), ({"kind": "classification"}, "is for token_classification tasks")):
        with pytest.raises(UserError, match=told):
            read_spec({**tree, **wrong}, "a.yaml")


def test_noise_leaves_every_word_its_place():
    example = Example(("Anna", "Smith", "lives"), (1, 2, 0))
    for kind in ("word_drop", "word_swap", "character_drop", "keyboard"):
        found = noised(example, kind, 1.0, ("key",))
        assert len(found.texts) == 3 and found.label == example.label
        assert json.dumps(found.texts) != json.dumps(example.texts) or kind.startswith("word")
