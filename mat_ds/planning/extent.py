"""Length of a run's inputs and number of its steps, from its data if they are on this machine, otherwise by assumption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import Any

import torch

from mat_ds.runs.options import RunConfig, budget_steps
from mat_ds.runs.steps import total_steps
from mat_ds.tasks.augment import AugmentConfig
from mat_ds.tasks.example import Example
from mat_ds.tasks.examples import TaskData
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.loader import Collator, TrainLoader
from mat_ds.tasks.registry import TASKS, TRAINING_EXAMPLES
from mat_ds.tasks.spec import TaskSpec

# How many of the examples with the most characters are tokenised to find the one with the most tokens.
CANDIDATES = 64
# How many outer steps are collated to find the average length of padded inputs.
SAMPLED_STEPS = 32


@dataclass(frozen=True)
class Extent:
    """Length of the inputs and number of steps.

    Attributes:
        longest, typical: tokens per example, with padding, in the longest and in the average micro-batch.
        steps: outer steps of the run; None if unknown.
        source: a text that says where these numbers come from.
    """

    longest: int
    typical: int
    steps: int | None
    source: str


def measured_extent(run: RunConfig, data: TaskData, tokenizer: Any, max_length: int, ranks: int) -> Extent:
    """Measures the extent on the data, with the micro-batches of the first rank."""
    collate, device = Collator(tokenizer, max_length, kind_of(data.spec)), torch.device("cpu")
    loader = TrainLoader(data.train, collate, run.train.batch_size, run.train.micro_batch, run.data, run.seed, 0, ranks, device)
    longest = longest_tokens(data.train, collate, run.data.augment)
    sampled = range(min(SAMPLED_STEPS, loader.steps_per_epoch))
    lengths = [batch.inputs["input_ids"].shape[-1] for step in sampled for batch in loader.micro_batches(step)]
    typical = round(sum(lengths) / len(lengths))
    source = f"{len(data.train):,} training examples of up to {longest} tokens; the average micro-batch has {typical}"
    return Extent(longest, typical, total_steps(run, loader.steps_per_epoch), source)


def longest_tokens(examples: Sequence[Example], collate: Collator, augment: AugmentConfig | None = None) -> int:
    """Tokens of the longest example, as far as its characters show which that is; with `augment` also of its changed texts."""
    distinct = {example.texts: example for example in examples}.values()  # an epoch may show one more than once
    long = nlargest(CANDIDATES, distinct, key=lambda example: example.length)
    for kind in augment.kinds if augment else ():
        always = AugmentConfig(share=1.0, kinds=(kind,), words=augment.words if augment else 1.0)
        long += [collate.augmented(example, always, ("longest", i)) for i, example in enumerate(long[:CANDIDATES])]
    return collate(long, torch.device("cpu"))[0]["input_ids"].shape[-1]


def assume(run: RunConfig, spec: TaskSpec, data: TaskData | None, max_length: int, examples: int | None) -> Extent:
    """Assumes that every input has the maximum length. For runs whose data or tokenizer are not on this machine.

    Args:
        run, spec: the options and the task.
        data: the data, if they are on this machine.
        max_length: tokens an input is cut at.
        examples: number of training examples as given by the user.
    """
    number, origin = (len(data.train), "") if data else (examples or _published(spec), "" if examples else " (published)")
    if number and run.data.train_limit:
        number = min(number, run.data.train_limit)
    counted = f"{number:,} training examples{origin}" if number else "training examples that --examples could count"
    steps = total_steps(run, number // run.train.batch_size) if number else budget_steps(run) or run.train.max_steps
    source = f"{counted}, each taken to have {max_length} tokens; data.max_length=N plans for shorter ones"
    return Extent(max_length, max_length, steps, source)


def _published(spec: TaskSpec) -> int | None:
    times = {spec.name: 1, **spec.also_train_on}
    if TASKS.get(spec.name) != spec or any(name not in TRAINING_EXAMPLES for name in times):
        return None
    return sum(TRAINING_EXAMPLES[name] * repeats for name, repeats in times.items())
