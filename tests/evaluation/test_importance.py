"""Words replaced in the order of their importance, against models whose weakness is planted, or that have none."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mat_ds.evaluation.attacks.importance import Importance
from mat_ds.tasks.example import Example
from tests.evaluation.test_hotflip import NEAR, READS_ONE, TEXT
from tests.support.bag import SPECIAL, attacked, bag_victim


class Likely(nn.Module):
    """Finds some words likely in the place of a word, whatever is around it."""

    def __init__(self, words):
        super().__init__()
        numbers = {word: number for number, word in enumerate((*SPECIAL, *NEAR))}
        self.table = torch.zeros(len(numbers), len(numbers))
        for old, some in words.items():
            for rank, new in enumerate(some):
                self.table[numbers[old], numbers[new]] = 9.0 - rank

    def forward(self, input_ids, **others):
        return SimpleNamespace(logits=self.table[input_ids])


def test_the_one_word_that_a_model_reads_is_found_and_its_flip():
    (found,), shared = attacked(Importance, bag_victim(NEAR, READS_ONE), [TEXT])
    assert found.broken and found.example.texts == ("Movie: the road  was a road .",)
    # the text, without each of three words, and the three neighbours of the most important one
    assert found.queries == 1 + 3 + 3 and shared["candidates"]["from"] == "the model's word embeddings"


def test_the_order_is_that_of_the_loss_without_a_word_by_brute_force():
    vectors = {"film": (0.4, 3.0, 0.0), "movie": (0.3, 3.0, 0.0), "road": (0.6, 0.0, 3.0), "street": (0.5, 0.0, 3.0)}
    example = Example(("film road film",), 1)
    victim = bag_victim(vectors, [[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    (found,), _ = attacked(Importance, victim, [example], max_share=0.4)
    # Without "road" most is lost, so it alone is changed, although either "film" loses as much by its change.
    assert found.example.texts == ("film street film",) and found.queries == 1 + 3 + 1 and not found.broken
    (found,), _ = attacked(Importance, victim, [example], max_share=0.7)
    assert found.example.texts == ("movie street film",) and found.queries == 1 + 3 + 2


def test_nothing_is_found_where_nothing_can_be():
    (found,), _ = attacked(Importance, bag_victim(NEAR, [[0.0] * 4] * 2, (0.0, 1.0)), [TEXT])
    assert not found.broken and found.example is TEXT and found.queries == 1 + 3 + 3 + 1 + 1


@pytest.mark.parametrize(("most", "queries", "broken"), [(1, 1, False), (2, 1, False), (3, 3, False), (9, 7, True)])
def test_queries_are_bounded_and_at_most_half_of_them_ask_for_importance(most, queries, broken):
    (found,), _ = attacked(Importance, bag_victim(NEAR, READS_ONE), [TEXT], max_queries=most)
    assert (found.queries, found.broken) == (queries, broken)


def test_a_masked_head_says_what_may_replace_a_word_and_the_word_embeddings_bound_it():
    likely = Likely({"film": ("lamp", "road", "movie"), "road": ("lamp", "the")})
    (found,), shared = attacked(Importance, bag_victim(NEAR, READS_ONE, masked=likely), [TEXT])
    assert found.broken and found.example.texts == ("Movie: the road  was a road .",)
    assert shared["candidates"]["from"].startswith("the head for masked words")
    # Of the film's neighbours all but "movie" are unlikely, and come after it.
    assert found.queries == 1 + 3 + 3
    (found,), shared = attacked(Importance, bag_victim(NEAR, READS_ONE, masked=likely), [TEXT], min_similarity=1.0)
    assert found.queries == 1 and shared["candidates"]["examples_without"] == 1, "a lamp is likely, but not like a film"


def test_the_result_depends_on_the_key_alone():
    texts = [
        Example((text,), 1) for text in ("the film was a road", "a picture was the film", "road film", "the road was a film")
    ]
    found = [attacked(Importance, bag_victim(NEAR, READS_ONE, batch_size=size), texts, max_queries=4)[0] for size in (1, 3, 32)]
    assert found[0] == found[1] == found[2] and any(one.queries > 1 for one in found[0])
