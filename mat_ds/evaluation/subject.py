"""Loads and checks what is evaluated: model, task and data, before ranks communicate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mat_ds.artifacts.calibrated import FILE as TEMPERATURE
from mat_ds.artifacts.calibrated import temperature_of
from mat_ds.artifacts.described import base_of, head_problems, model_sha256
from mat_ds.artifacts.exported import load_classifier
from mat_ds.artifacts.members import members_of
from mat_ds.errors import Problem, collect_problems, raise_if_any
from mat_ds.evaluation.attacks.options import WORD_ATTACKS
from mat_ds.evaluation.attacks.recipes import recipe_problems
from mat_ds.evaluation.attacks.surrogate import load_surrogate
from mat_ds.evaluation.groups import group_problems
from mat_ds.evaluation.invariance.suite import Suite
from mat_ds.evaluation.mixture import load_mixture
from mat_ds.evaluation.options import EvaluationOptions
from mat_ds.evaluation.request import EvaluationRequest
from mat_ds.models.build import longest_input
from mat_ds.models.perturb import MOST_TRIED, check_perturbable, word_embedding
from mat_ds.models.pretrained import load_masked
from mat_ds.models.vocabulary import vocabulary_problems
from mat_ds.tasks.example import Example
from mat_ds.tasks.examples import TaskData, digest_of, load_task_data
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.loader import Collator
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.rows import Tally
from mat_ds.tasks.spec import TaskSpec
from mat_ds.tasks.tokens import token_problems, with_tokens
from mat_ds.terminal.waiting import waiting


@dataclass(frozen=True)
class Subject:
    """A model to evaluate, and its data.

    Attributes:
        folder: the run or model folder, or the model's name.
        model, tokenizer, max_length: the classifier on the CPU; maximum tokens of its inputs.
        spec: the task.
        splits: examples of each labelled split, dev before test.
        tallies: row counts of each split.
        temperature: of its calibration; None if it has none.
        invariance: tests of its behaviour; None if there are none.
        surrogate: another model for a check of the attack, on the CPU; None if there is none.
        masked: the model that it was fine-tuned from, with a head for masked words, if an attack asks for it and there is one.
        model_sha256, data_sha256: digests of the model's files, and of all examples with labels.
    """

    folder: Path
    model: torch.nn.Module
    tokenizer: Any
    max_length: int
    spec: TaskSpec
    splits: dict[str, Sequence[Example]]
    tallies: dict[str, Tally]
    temperature: float | None
    invariance: Suite | None
    model_sha256: str
    data_sha256: str
    surrogate: torch.nn.Module | None = None
    masked: Any = None


def load_subject(asked: EvaluationRequest, options: EvaluationOptions) -> Subject:
    """Loads and checks everything an evaluation needs.

    Args:
        asked: what `find_subject` finds.
        options: of the evaluation.

    Raises:
        UserError: naming every problem with model, task and data.
    """
    source, spec = asked.folder, asked.spec
    found: list[Problem] = []
    with waiting(f"reading the data of {spec.name}"):
        data = collect_problems(found, _labelled_splits, spec, asked.data)
    loaded = collect_problems(found, load_classifier, source, getattr(torch, options.dtype), torch.device("cpu"))
    model, tokenizer = loaded or (None, None)
    if model:
        found += head_problems("task", model.config, spec)
    found += group_problems(options.groups, data.dev | data.test) if data else ()
    if model and options.mixture and not found:
        model = collect_problems(found, load_mixture, source, asked.name, model, kind_of(spec))
    temperature = None
    if (source / TEMPERATURE).exists() and not options.mixture:  # it is that of the model alone
        temperature = collect_problems(found, temperature_of, source, asked.name)
    raise_if_any(found)
    assert data and model and tokenizer
    raise_if_any(kind_of(spec).tokenizer_problems("model", asked.name, tokenizer))
    raise_if_any(word_attack_problems(options.text_attack.names, asked.name, model, tokenizer))
    raise_if_any(recipe_problems(options.text_attack.names, model))
    max_length = min(asked.data.max_length, longest_input(model, tokenizer))
    surrogate = None
    if other := options.attack.surrogate:
        surrogate = load_surrogate(other, model, tokenizer, kind_of(spec), getattr(torch, options.dtype))
    data = with_tokens(data, tokenizer, max_length, asked.data)
    splits = data.dev | data.test
    written = asked.invariance.examples if asked.invariance else []
    raise_if_any(token_problems(tokenizer, written, max_length, kind_of(spec)))
    texts = (*splits.values(), written)
    raise_if_any(vocabulary_problems("model", asked.name, model, tokenizer, texts, max_length, kind_of(spec)))
    if (options.attack.curve or options.smoothing.sigma) and (first := next(iter(splits.values()))):
        inputs, _ = Collator(tokenizer, min(max_length, MOST_TRIED), kind_of(spec))(first[:1], torch.device("cpu"))
        check_perturbable("model", asked.name, model, inputs)
    return Subject(
        Path(asked.name),
        model,
        tokenizer,
        max_length,
        spec,
        splits,
        data.tallies,
        temperature,
        asked.invariance,
        model_sha256(source, *(members_of(source, asked.name) if options.mixture else ())),
        digest_of(splits),
        surrogate,
        _masked_of(source, model) if "importance" in options.text_attack.names else None,
    )


def _masked_of(source: Path, model: Any) -> Any:
    """The model with a head for masked words that the one in a folder was fine-tuned from, if it has the same vocabulary."""
    base = base_of(source)
    found = load_masked(*base) if base else None
    same = found is not None and word_embedding(found).num_embeddings == word_embedding(model).num_embeddings
    return found if same else None


def word_attack_problems(names: Sequence[str], name: str, model: Any, tokenizer: Any) -> Iterator[Problem]:
    """Yields why a model cannot be attacked by words of its vocabulary, if that is asked for.

    Args:
        names: of the text attacks.
        name: of the model.
    """
    asked = ", ".join(attack for attack in names if attack in WORD_ATTACKS)
    if asked and not tokenizer.is_fast:
        reason = f"its {type(tokenizer).__name__} does not say where in a text its tokens are, which {asked} must know"
        yield Problem(
            "text_attack.names", asked, reason, "add its tokenizer.json (a fast tokenizer) to the model, or leave it out"
        )
    elif asked and word_embedding(model) is None:
        yield Problem("text_attack.names", asked, f"{name} has no word embeddings", "leave it out")


def _labelled_splits(spec: TaskSpec, data: DataConfig) -> TaskData:
    """Dev splits, and test splits if they are labelled. Tokens of prepared data are not used, since the model or its maximum
    length may differ."""
    scored = spec.model_copy(update={"train": {}, "also_train_on": {}, "test": spec.test if spec.test_labelled else ()})
    if data.validation:
        scored = scored.model_copy(update={"dev": ("validation",), "test": ()})
    return load_task_data(scored, data, with_tokens=False)
