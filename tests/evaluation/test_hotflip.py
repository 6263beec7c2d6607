"""HotFlip against models whose weakness is planted, or that have none by construction."""

import math
from types import SimpleNamespace

import pytest
import torch

from mat_ds.evaluation.attacks.hotflip import HotFlip
from mat_ds.evaluation.attacks.options import TextAttackOptions
from mat_ds.evaluation.subject import word_attack_problems
from mat_ds.tasks.example import Example
from tests.support.bag import attacked, bag_victim

# The model reads the first number alone; the others say which words are near each other.
NEAR = {
    "film": (1.0, 3.0, 0.0, 0.0), "movie": (-1.0, 3.0, 0.0, 0.0), "picture": (1.0, 3.0, 0.1, 0.0),
    "cinema": (0.9, 3.0, 0.0, 0.1), "road": (0.0, 0.0, 3.0, 0.0), "street": (0.0, 0.0, 3.0, 0.2), "the": (0.0, 0.0, 0.0, 0.1),
    "was": (0.0, 0.0, 0.0, 0.1), "a": (0.0, 0.0, 0.0, 0.1), "lamp": (-9.0, 0.0, 0.0, 9.0),
}  # fmt: skip
READS_ONE = [[-1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
TEXT = Example(("Film: the road  was a road .",), 1)


def test_the_one_word_that_a_model_reads_is_found_and_its_flip():
    (found,), shared = attacked(HotFlip, bag_victim(NEAR, READS_ONE), [TEXT])
    assert found.broken and found.example.texts == ("Movie: the road  was a road .",), "case and spaces are as they were"
    # the text, its gradient, and all replacements: three of one word, one of another that stands twice
    assert found.queries == 1 + 1 + 3 + 2
    assert shared["candidates"] == {"from": "the model's word embeddings", "words": 9, "examples_without": 0}
    assert found.before.loss == pytest.approx(math.log1p(math.exp(-2)), rel=1e-6)


def test_nothing_is_found_where_nothing_can_be_and_the_text_stays():
    blind = [[0.0] * 4, [0.0] * 4]
    (found,), _ = attacked(HotFlip, bag_victim(NEAR, blind, (0.0, 1.0)), [TEXT])
    assert not found.broken and found.example is TEXT and found.queries == 1 + 1 + 3 + 2
    (found,), shared = attacked(HotFlip, bag_victim(NEAR, READS_ONE), [TEXT], min_similarity=1.0)
    assert found.example is TEXT and found.queries == 1 and shared["candidates"]["examples_without"] == 1


def test_a_wrong_answer_is_not_attacked_and_queries_are_bounded():
    (found,), _ = attacked(HotFlip, bag_victim(NEAR, READS_ONE), [Example(TEXT.texts, 0)])
    assert found.queries == 1 and not found.before.right and not found.broken
    for most in (1, 2, 3, 4):
        (found,), _ = attacked(HotFlip, bag_victim(NEAR, READS_ONE), [TEXT], max_queries=most)
        assert found.queries == (1 if most < 3 else most) and found.broken == (most >= 3), "the best ranked comes first"


def test_words_are_ranked_as_brute_force_ranks_them_where_the_first_order_is_exact():
    generator = torch.Generator().manual_seed(0)
    words = [f"{a}{b}o" for a in "bdfgklmnprst" for b in "aeiou"]
    drawn = torch.randn(len(words), 6, generator=generator)
    victim = bag_victim(dict(zip(words, drawn.tolist(), strict=True)), torch.randn(2, 6, generator=generator).tolist())
    text = "dao fio gao".split()
    example = Example((" ".join(text),), 0)
    attack = HotFlip(TextAttackOptions(min_similarity=-1.0), victim, 0)
    attack.prepare([example], (0,))
    ranked = attack.ranked(example, {i: [word for word in words if word != old] for i, old in enumerate(text)})

    vectors = dict(zip(words, drawn.double(), strict=True))
    head = victim.model.head.double()

    def loss(sentence):
        logits = head @ sum(vectors[word] for word in sentence)
        return float(logits.logsumexp(0) - logits[0])

    brute = [loss([*text[:i], word, *text[i + 1 :]]) for i, word in ranked]
    assert len(brute) == 3 * (len(words) - 1) and brute == sorted(brute, reverse=True)


def test_several_words_are_changed_one_after_another_within_the_share():
    vectors = {"film": (0.6, 3.0, 0.0), "movie": (-0.1, 3.0, 0.0), "road": (0.6, 0.0, 3.0), "street": (-0.1, 0.0, 3.0)}
    example = Example(("film road film road film",), 1)
    victim = bag_victim(vectors, [[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    changes = {share: attacked(HotFlip, victim, [example], max_share=share)[0][0] for share in (0.1, 0.4, 0.8, 1.0)}
    count = {
        share: sum(a != b for a, b in zip(one.example.texts[0].split(), example.texts[0].split(), strict=True))
        for share, one in changes.items()
    }
    assert count == {0.1: 1, 0.4: 2, 0.8: 4, 1.0: 5}
    assert [one.broken for one in changes.values()] == [False, False, False, True]


def test_of_a_pair_the_chosen_text_alone_changes():
    pair = Example(("a film", "the film"), 1)
    victim = bag_victim(NEAR, READS_ONE, (0.0, -3.0), columns=("premise", "hypothesis"))
    (found,), _ = attacked(HotFlip, victim, [pair])
    assert found.broken and found.example.texts == ("a film", "the movie")
    (found,), _ = attacked(HotFlip, victim, [pair], column=0)
    assert found.broken and found.example.texts == ("a movie", "the film")


def test_the_result_depends_neither_on_the_size_of_batches_nor_on_a_second_try():
    texts = [
        Example((text,), 1) for text in ("the film was a road", "a picture was the film", "road film", "the road was a film")
    ]
    found = [attacked(HotFlip, bag_victim(NEAR, READS_ONE, batch_size=size), texts)[0] for size in (1, 3, 32, 32)]
    assert all(one == found[0] for one in found[1:]) and any(one.broken for one in found[0])


def test_what_was_cut_off_is_not_changed():
    example = Example(("the road was a film",), 0)
    (found,), _ = attacked(HotFlip, bag_victim(NEAR, READS_ONE, (1.0, 0.0), max_length=4), [example])
    assert found.example is example and found.queries == 1 + 1 + 1


def test_a_model_without_places_of_tokens_or_without_words_is_refused_once():
    fast, slow = SimpleNamespace(is_fast=True), SimpleNamespace(is_fast=False)
    hashed = SimpleNamespace(get_input_embeddings=lambda: None)
    bag = bag_victim(NEAR, READS_ONE).model
    (problem,) = word_attack_problems(("benign_words", "hotflip"), "m", hashed, slow)
    assert problem.value == "hotflip" and "SimpleNamespace does not say where" in problem.reason
    (problem,) = word_attack_problems(("hotflip",), "m", hashed, fast)
    assert "no word embeddings" in problem.reason
    assert not list(word_attack_problems(("hotflip",), "m", bag, fast))
    assert not list(word_attack_problems(("benign_words",), "m", hashed, slow))
