"""The words of a text: which tokens they are, which may be changed, and what may replace them."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import randn
from transformers import PreTrainedTokenizerFast

from mat_ds.evaluation.attacks.english import may_replace
from mat_ds.evaluation.attacks.word_table import WordTable, word_tokens
from mat_ds.evaluation.attacks.words import agrees, changeable, most_changes, replaced, split_words
from mat_ds.models.tiny import tiny_tokenizer

CORPUS = ["the quiet film was a long film near the old road", "a road was long and the film was quiet", "old film road"] * 40


def word_piece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer, trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]", "[PAD]"], show_progress=False)


def byte_pairs():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return tokenizer, trainers.BpeTrainer(
        vocab_size=500, special_tokens=["[PAD]"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )


def unigram():
    pieces = [f"\u2581{word}" for word in "the quiet film was long road".split()] + [
        "\u2581",
        *"abcdefghijklmnopqrstuvwxyz,().",
    ]
    tokenizer = Tokenizer(models.Unigram([("[UNK]", 0.0), ("[PAD]", 0.0), *((piece, -5.0) for piece in pieces)], unk_id=0))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return tokenizer, None


def built(make):
    if make is tiny_tokenizer:
        return tiny_tokenizer(CORPUS)
    tokenizer, trainer = make()
    if trainer:
        tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]")


@pytest.mark.parametrize("make", [word_piece, byte_pairs, unigram, tiny_tokenizer])
def test_the_tokens_of_a_word_are_found_whatever_the_tokenizer(make):
    tokenizer = built(make)
    table = WordTable(tokenizer, randn(len(tokenizer), 4))
    assert {"film", "road", "quiet"} <= set(table.words) and "mfil" not in table
    text = "the film,  the dragon road (quiet) films"
    read = tokenizer(text, return_offsets_mapping=True)
    found = word_tokens(split_words(text), text, read["offset_mapping"])
    numbers = dict(zip(table.words, table.tokens.tolist(), strict=True))
    for number, word in enumerate(split_words(text)):
        tokens = [read["input_ids"][place] for place in found[number]]
        assert tokenizer.decode(tokens).strip().replace(" ", "") == word.written
        if word.written in ("film", "road"):
            assert tokens == [numbers[word.written]]
    assert len(found[3]) > 1, "a word that no vocabulary has"
    # The last words are cut off.
    kept = tokenizer(text, return_offsets_mapping=True, truncation=True, max_length=found[3][0] + 1)["offset_mapping"]
    assert set(word_tokens(split_words(text), text, kept)) == {0, 1, 2}


def test_function_words_names_numbers_and_what_is_joined_to_others_are_kept():
    def may_change(text):
        return [split_words(text)[i].written for i in changeable(text)]

    assert may_change("Good films never have 3 well-made endings, it's said.") == ["Good", "films", "endings", "said"]
    assert may_change('A film by Anna Brown. "Great" acting! NATO met.') == ["film", "Great", "acting", "met"]
    assert may_change("GREAT ACTING, NOT THE STORY") == ["GREAT", "ACTING", "STORY"]
    assert may_change("do n't like@home #films c1ty") == []
    assert (most_changes(split_words("a b c"), 0.2), most_changes(split_words("a " * 10), 0.25)) == (1, 2)


def test_a_word_in_place_of_another_has_its_case_and_the_article_of_it():
    text = "An  Odd FILM, odd"
    odd, film = split_words(text)[1], split_words(text)[2]
    assert replaced(text, odd, "new") == "An  New FILM, odd" and replaced(text, film, "movie") == "An  Odd MOVIE, odd"
    assert agrees(text, odd, "eerie") and not agrees(text, odd, "new") and agrees(text, film, "opus")


@pytest.mark.parametrize(
    ("old", "new", "may"),
    [
        ("film", "movie", True), ("terrible", "dreadful", True), ("quickly", "rapidly", True), ("films", "movies", True),
        ("good", "bad", False), ("quickly", "slowly", False), ("happy", "unhappy", False), ("careful", "careless", False),
        ("seven", "eight", False), ("red", "blue", False), ("good", "good", False), ("film", "the", False),
        ("film", "films", False), ("humor", "humorous", False), ("makes", "make", False), ("said", "say", False),
        ("smarter", "intelligent", False), ("sadness", "dreadful", False), ("enjoyed", "like", False),
    ],
)  # fmt: skip
def test_opposites_other_forms_and_other_parts_of_speech_do_not_replace_a_word(old, new, may):
    assert may_replace(old, new) == may_replace(new, old) == may or new == "the"
