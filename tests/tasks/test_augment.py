"""Changed texts in training: keyed, in the share that was asked for, with labels and everything else as they were."""

import re

import pytest
import torch

from mat_ds.models.build import build_tokenizer
from mat_ds.models.options import ModelConfig
from mat_ds.runs.load import load_run_config
from mat_ds.runs.options import task_problems
from mat_ds.tasks.augment import AugmentConfig, augmented
from mat_ds.tasks.benign_words import WORDS
from mat_ds.tasks.characters import CHANGES
from mat_ds.tasks.example import Example
from mat_ds.tasks.loader import Collator, TrainLoader
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.spec import TaskSpec
from tests.support.kinds import CLASSIFICATION

CPU = torch.device("cpu")
TEXT = "Nobody believes that the committee approved these proposals"
EXAMPLES = [Example((f"{TEXT} number {i}", "another sentence of the pair"), i % 3) for i in range(48)]
TOKENIZER = build_tokenizer(ModelConfig(), [text for example in EXAMPLES for text in example.texts])


class Seen(Collator):
    """Keeps the examples that it collates, by the row that their label and text name."""

    def __init__(self):
        super().__init__(TOKENIZER, 64, CLASSIFICATION)
        self.examples = []

    def __call__(self, examples, device):
        self.examples += examples
        return super().__call__(examples, device)


def shown(steps, rank=0, ranks=1, micro=2, examples=EXAMPLES, **augment):
    """The examples that a rank is shown in some outer steps of six an epoch."""
    seen = Seen()
    data = DataConfig(augment=AugmentConfig(**augment)) if augment else DataConfig()
    loader = TrainLoader(examples, seen, 8, micro, data, 0, rank, ranks, CPU)
    for step in steps:
        loader.micro_batches(step)
    return seen.examples


def texts(examples):
    return sorted(example.texts for example in examples)


def test_what_an_epoch_shows_depends_on_seed_epoch_and_row_alone():
    whole = texts(shown(range(12), share=0.5))
    assert texts(shown(range(12), share=0.5, micro=8)) == whole
    assert texts(part for rank in range(2) for part in shown(range(12), rank, 2, share=0.5)) == whole
    again = texts(shown(range(6, 12), share=0.5))  # as a run that goes on from a checkpoint
    assert again == texts(shown(range(12), share=0.5)[48:]) != texts(shown(range(6), share=0.5))


def test_without_it_every_example_is_the_very_one():
    assert {id(example) for example in shown(range(6))} == {id(example) for example in EXAMPLES}


def test_a_share_of_the_examples_is_changed_each_by_one_of_the_kinds():
    options = AugmentConfig(share=0.3, words=1.0)
    found = [augmented(EXAMPLES[0], options, None, (0, epoch, 7)) for epoch in range(1000)]
    changed = [example for example in found if example is not EXAMPLES[0]]
    assert 250 < len(changed) < 350 and all(example.texts != EXAMPLES[0].texts for example in changed)
    marks = {
        "homoglyph": lambda text: any(0x370 <= ord(c) < 0x590 for c in text),
        "spacing": lambda text: "N o b o d y" in text,
        "leetspeak": lambda text: "N080dy" in text,
        "invisible": lambda text: len(text) > len(EXAMPLES[0].texts[0]) and "  " not in text,
    }
    counts = {name: sum(mark(example.texts[0]) for example in changed) for name, mark in marks.items()}
    assert all(25 < count < 80 for count in counts.values()), counts  # 50 of 300 each
    assert sum(counts.values()) < len(changed) * 0.8  # the rest: swaps and keyboard


@pytest.mark.parametrize("kind", CHANGES)
def test_at_least_one_word_and_no_more_than_the_share_are_changed(kind):
    for share, most in ((0.01, 1), (0.5, 4)):
        for i in range(50):
            (changed,) = augmented(Example((TEXT,), 0), AugmentConfig(share=1.0, kinds=(kind,), words=share), None, (i,)).texts
            kept = sum(word in changed.split() for word in TEXT.split())
            assert 8 - most <= kept < 8 or (kind in ("swap", "keyboard", "leetspeak") and kept == 8), changed


def test_everything_but_the_texts_stays_and_only_those_are_changed_that_may_be():
    example = Example((TEXT, TEXT), 2, {"input_ids": [1]}, "a.csv:3", "own/train", 0.5, (0.1, 0.2, 0.7))
    found = augmented(example, AugmentConfig(share=1.0, kinds=("spacing",)), 1, (0,))
    assert found.texts[0] != TEXT == found.texts[1] and found.tokens is None
    for name in ("label", "where", "split", "weight", "probabilities", "part"):
        assert getattr(found, name) == getattr(example, name)


def test_prepared_tokens_are_used_for_texts_that_stay_and_for_no_other():
    wrong = {"input_ids": [5, 5, 5], "attention_mask": [1, 1, 1]}
    prepared = [Example(example.texts, example.label, wrong) for example in EXAMPLES]
    collate = Collator(TOKENIZER, 64, CLASSIFICATION)
    for example in shown(range(6), examples=prepared, share=0.5):
        inputs, _ = collate([example], CPU)
        fresh, _ = collate([Example(example.texts, example.label)], CPU)
        changed = example.texts not in {each.texts for each in EXAMPLES}
        assert torch.equal(inputs["input_ids"], fresh["input_ids"]) == changed


def test_benign_words_stand_around_a_text_that_stays():
    sides = set()
    for i in range(200):
        (text,) = augmented(Example((TEXT,), 0), AugmentConfig(share=1.0, kinds=("benign_words",)), None, (i,)).texts
        before, after = text.split(TEXT)
        sides |= {name for name, side in (("before", before), ("after", after)) if side}
        left = f"{before} {after}"
        for word in sorted(WORDS, key=len, reverse=True):
            left = re.sub(rf"\b{word}\b", " ", left)
        assert (before or after) and not left.strip()
    assert sides == {"before", "after"}


def test_words_without_labels_are_not_added():
    named = {"train": {"train": 1}, "dev": ("validation",), "text": ("words",), "labels": ("a", "b")}
    spec = TaskSpec(name="own", kind="token_classification", **named)
    run = load_run_config(None, ["data.augment.kinds=[spacing,benign_words]", "method.name=vanilla"])
    assert "data.augment.kinds" in [problem.key for problem in task_problems(run, spec)]


def test_texts_that_were_cut_into_windows_are_not_changed():
    spec = TaskSpec(name="own", kind="span_qa", train={"train": 1}, dev=("validation",), text=("question", "context"))
    run = load_run_config(None, ["data.augment.share=0.5", "method.name=vanilla"])
    assert "data.augment" in [problem.key for problem in task_problems(run, spec)]
    assert run.data.augment == AugmentConfig(share=0.5)
    assert not [p for p in task_problems(load_run_config(None, ["method.name=vanilla"]), spec) if p.key == "data.augment"]
