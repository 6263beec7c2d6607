"""The built-in corpus: balanced minimal pairs, and a validation split with words that training does not contain."""

import dataclasses
from collections import Counter

import pytest

from mat_ds.models.tiny import tiny_tokenizer
from mat_ds.tasks import demo

CLOSED_CLASS = set(
    "a above are been behind beside by can every has have herself himself is many near several single that the themselves "
    "these this those was were will with".split()
)


def words(split):
    return {word for row in demo.rows(split) for word in row["sentence"].rstrip(".").split()}


def test_no_content_word_of_validation_occurs_in_training():
    assert words("train") & words("validation") <= CLOSED_CLASS
    assert len(words("validation") - CLOSED_CLASS) > 100


def test_the_lexica_share_no_stem():
    stems = [
        {w for f in dataclasses.fields(lexicon) if f.name != "plural" for w in getattr(lexicon, f.name)}
        for lexicon in demo.LEXICA.values()
    ]
    assert not stems[0] & stems[1]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_every_word_inflects_by_rule(split):
    lexicon = demo.LEXICA[split]
    for noun in lexicon.people + lexicon.things:
        assert not noun.endswith(("s", "x", "z", "ch", "sh")) and (noun[-1] != "y" or noun[-2] in "aeiou"), noun
    for verb in lexicon.intransitive:
        assert not verb.endswith(("s", "x", "z", "ch", "sh", "e")), verb
    for verb in lexicon.transitive:
        assert not verb.endswith("e") and (verb[-1] != "y" or verb[-2] in "aeiou"), verb


@pytest.mark.parametrize("split", ["train", "validation"])
def test_labels_are_balanced_in_every_phenomenon(split):
    counts = Counter((row["phenomenon"], row["label"]) for row in demo.rows(split))
    phenomena = {name for name, _ in counts}
    assert len(phenomena) == len(demo.PHENOMENA) >= 6
    assert all(counts[name, 0] == counts[name, 1] > 50 for name in phenomena)


def test_sentences_are_distinct_and_the_corpus_is_deterministic():
    sentences = [row["sentence"] for row in demo.rows("train")]
    assert len(set(sentences)) == len(sentences) == demo.SIZES["train"]
    assert sentences == [row["sentence"] for row in demo.rows("train")]


def test_every_sentence_has_a_partner_that_differs_in_one_word():
    rows = list(demo.rows("validation"))
    by_words = {tuple(row["sentence"].split()): row["label"] for row in rows}

    def differs_in_one_word(a, b):
        shorter, longer = sorted((a, b), key=len)
        if len(a) == len(b):
            return sum(x != y for x, y in zip(a, b, strict=True)) == 1
        return len(longer) == len(shorter) + 1 and any(longer[:i] + longer[i + 1 :] == shorter for i in range(len(longer)))

    for sentence, label in by_words.items():
        partners = (other for other, its in by_words.items() if its != label and other[0] == sentence[0])
        assert any(differs_in_one_word(sentence, other) for other in partners), sentence


def test_training_its_tokenizer_twice_gives_the_same_tokenizer():
    texts = [row["sentence"] for row in demo.rows("train")]
    first, second = (tiny_tokenizer(texts) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()
    assert first.tokenize("the orphans yell.")[-2:] == second.tokenize("the orphans yell.")[-2:]
