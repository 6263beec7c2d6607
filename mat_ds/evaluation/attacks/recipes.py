"""The recipes of TextAttack (Morris et al. 2020), an optional package, as attacks on texts."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mat_ds.config.versions import version_of
from mat_ds.errors import Problem, UserError
from mat_ds.evaluation.attacks.base import Key, TextAttack, Verdict, Victim
from mat_ds.evaluation.attacks.options import RECIPES, TextAttackOptions
from mat_ds.sampling.keys import seed_from
from mat_ds.tasks.example import Example

# What is raised where a package, a word list of NLTK, or a file is not there.
MISSING = (ImportError, LookupError, OSError)


class Recipe(TextAttack):
    """One of TextAttack's recipes, with its own transformations, constraints and search; `max_share` says nothing to it. The
    bound on queries is given to it; an answer that it kept from before costs none.

    Attributes:
        attack_of: makes the attack of TextAttack, given its `ModelWrapper` of the model.
    """

    attack_of: Any

    def __init__(self, options: TextAttackOptions, victim: Victim, column: int):
        super().__init__(options, victim, column)
        self._probabilities = Probabilities(self)
        self._attack = type(self).attack_of(wrapper_of(victim.model, self._probabilities))
        self._attack.goal_function.query_budget = options.max_queries - 1
        self._attack.goal_function.batch_size = victim.batch_size

    def prepare(self, examples: Sequence[Example], key: Key) -> dict[str, Any]:
        return {"recipe": RECIPES.get(self.name), "textattack": version_of("textattack")}

    def search(self, example: Example, before: Verdict, key: Key) -> tuple[Example, Verdict]:
        if self.options.max_queries == 1:
            return example, before
        self._probabilities.start(example)
        self._attack.clear_cache()
        try:
            with seeded(seed_from(*key)):
                result = self._attack.attack(self.text_of(example), example.label)
        except MISSING as error:  # some recipes load what they need as they need it
            raise UserError(_unusable(self.name, error)) from error
        text = result.perturbed_result.attacked_text.text
        after = self._probabilities.verdicts.get(text, before)
        return (self.with_text(example, text), after) if after.worse_than(before) else (example, before)


class Probabilities:
    """The model's probabilities of texts that take the place of an example's."""

    def __init__(self, attack: TextAttack):
        self._attack = attack
        self.verdicts: dict[str, Verdict] = {}

    def start(self, example: Example) -> None:
        """Attacks begin with this example."""
        self._example, self.verdicts = example, {}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """The probabilities of all labels, (B, C), in float64: TextAttack takes what does not sum to 1 for logits."""
        answers = self._attack.victim.answers([self._attack.with_text(self._example, text) for text in texts])
        self.verdicts |= {text: verdict for text, (_, verdict) in zip(texts, answers, strict=True)}
        return torch.stack([logits for logits, _ in answers]).double().softmax(-1)


def recipe(name: str) -> type[Recipe]:
    """The class of a recipe, given one of the names in `options.RECIPES`.

    Raises:
        UserError: if TextAttack cannot be imported.
    """
    made = getattr(imported().attack_recipes, RECIPES[name]).build
    return type(name, (Recipe,), {"name": name, "attack_of": staticmethod(made)})


def recipe_problems(names: Sequence[str], model: Any) -> Iterator[Problem]:
    """Yields which of the named attacks are recipes of TextAttack that lack something that they load at once."""
    for name in names:
        if name in RECIPES:
            try:
                recipe(name).attack_of(wrapper_of(model, None))
            except MISSING as error:
                yield _unusable(name, error)


def wrapper_of(model: Any, probabilities: Any) -> Any:
    """A model as TextAttack wants it.

    Args:
        probabilities: of its labels, given texts.
    """

    class Wrapper(imported().models.wrappers.ModelWrapper):  # type: ignore[misc]
        def __init__(self) -> None:
            self.model = model

        def __call__(self, texts: Sequence[str], **others: Any) -> Any:
            return probabilities(texts)

    return Wrapper()


def imported() -> ModuleType:
    """TextAttack. It imports flair, which has no version for this transformers, although few recipes need it: where that cannot
    be imported, it gets an empty stand-in, and what calls it fails.

    Raises:
        UserError: if TextAttack cannot be imported.
    """
    try:
        import_module("flair")
    except ImportError:
        sys.modules.update(_without_flair())
    try:
        import_module("textattack.attack_recipes")
        textattack = import_module("textattack")
    except MISSING as error:
        raise UserError(_unusable("textattack_...", error)) from error
    logging.getLogger("textattack.shared.utils.install").setLevel(logging.ERROR)  # it warns of every class of models
    return textattack


def _without_flair() -> dict[str, ModuleType]:
    modules = {name: ModuleType(name) for name in ("flair", "flair.data", "flair.models")}
    for place, name in (("flair.data", "Tokenizer"), ("flair.data", "Sentence"), ("flair.models", "SequenceTagger")):
        setattr(modules[place], name, type(name, (), {"load": _no_flair}))
    vars(modules["flair"]).update(data=modules["flair.data"], models=modules["flair.models"])
    return modules


def _no_flair(*given: Any) -> None:
    raise ImportError("flair, which tags parts of speech, cannot be imported")


def _unusable(names: str, error: Exception) -> Problem:
    if isinstance(error, IndexError | KeyError):  # no word list of NLTK
        raise error
    told = next((line.strip(" *") for line in str(error).splitlines() if line.strip(" *")), type(error).__name__)
    fix = "install what it names (word lists of NLTK: python -m nltk.downloader NAME), or leave it out"
    return Problem("text_attack.names", names, f"TextAttack cannot load what it needs: {told}", fix)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python's and numpy's own random numbers, which TextAttack draws, from a seed; afterwards as before."""
    before = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
