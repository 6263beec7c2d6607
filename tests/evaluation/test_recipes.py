"""TextAttack's recipes: refused with the command where it is not installed; where it is, the same search finds the same."""

import random
from importlib.util import find_spec
from typing import ClassVar

import numpy as np
import pytest

from mat_ds.errors import UserError
from mat_ds.evaluation import request
from mat_ds.evaluation.attacks.characters import Characters, Trail
from mat_ds.evaluation.attacks.options import INSTALLED_BY, RECIPES, TextAttackOptions
from mat_ds.tasks.example import Example
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.registry import TASKS
from mat_ds.tasks.spec import TaskSpec
from tests.support.bag import attacked, bag_victim

SIGN = [[-1.0], [1.0]]


def swapped(word, numbers=None):
    return word[1] + word[0] + word[2:]


def shortened(word, numbers=None):
    return word[:-1]


class DeepWordBug(Characters):
    """The search alone, with any change for any word."""

    changes: ClassVar = {"swapped": swapped, "shortened": shortened}

    def search(self, example, before, key):
        start = Trail(example, before, {})
        order = self.order(example, key, self.options.max_queries)
        found = self.word_by_word(start, order, {"any": self.changes}, key, self.options.max_queries)["any"]
        return found.example, found.verdict


def refusals(name, kind, monkeypatch, there=False):
    monkeypatch.setattr(request, "find_spec", lambda module: object() if there and module == "textattack" else None)
    return [str(UserError(problem)) for problem in request._text_attack_problems(TextAttackOptions(names=(name,)), kind)]


def test_a_recipe_without_the_package_names_the_command(monkeypatch):
    (said,) = refusals("textattack_pwws", kind_of(TASKS["sst2"]), monkeypatch)
    assert "TextAttack is not installed" in said and "pip install mat_ds[textattack]" in said
    assert not refusals("textattack_pwws", kind_of(TASKS["sst2"]), monkeypatch, there=True)
    several = kind_of(TaskSpec(name="own", kind="multi_label", text=("text",), labels=("a", "b")))
    (said,) = refusals("textattack_pwws", several, monkeypatch, there=True)
    assert "multi_label" in said
    assert not refusals("characters", several, monkeypatch)


@pytest.fixture(scope="module")
def recipes():
    if find_spec("textattack") is None:
        pytest.skip(f"TextAttack is not installed: {INSTALLED_BY}")
    from mat_ds.evaluation.attacks import recipes

    try:
        recipes.imported()
    except UserError as error:
        pytest.skip(f"TextAttack cannot be used here: {error}")
    return recipes


def problem():
    """A bag of words that knows changed words too, and weighs them about the same; 50 texts of seven words, labelled as it
    answers."""
    numbers = random.Random(0)
    words = ["".join(numbers.sample("abcdefghijklmnop", 5)) for _ in range(20)]
    weights = {word: (numbers.gauss(0, 1),) for word in words}
    for word in words:
        weights |= {form: (weights[word][0] + numbers.gauss(0, 0.3),) for form in (swapped(word), shortened(word))}
    victim = bag_victim(weights, SIGN)
    texts = [" ".join(numbers.sample(words, 7)) for _ in range(50)]
    return victim, [Example((text,), int(sum(weights[word][0] for word in text.split()) > 0)) for text in texts]


def same_search(textattack, changes):
    """DeepWordBug's search of TextAttack, with changes of ours."""
    from textattack.constraints.pre_transformation import RepeatModification
    from textattack.goal_functions import UntargetedClassification
    from textattack.search_methods import GreedyWordSwapWIR
    from textattack.transformations import WordSwap

    class Changed(WordSwap):
        def _get_replacement_words(self, word):
            return [change(word) for change in changes]

    def attack_of(wrapper):
        goal = UntargetedClassification(wrapper)
        return textattack.Attack(goal, [RepeatModification()], Changed(), GreedyWordSwapWIR(wir_method="delete"))

    return staticmethod(attack_of)


def test_textattack_and_this_package_find_the_same_on_fifty_examples(recipes):
    """Each text, not only how many: same search, same changes, no ties."""
    victim, examples = problem()
    theirs = type(
        "Theirs", (recipes.Recipe,), {"name": "theirs", "attack_of": same_search(recipes.imported(), (swapped, shortened))}
    )
    options = {"max_queries": 500, "max_share": 1.0}
    found = [attacked(attack, victim, examples, **options)[0] for attack in (DeepWordBug, theirs)]
    for own, other in zip(*found, strict=True):
        assert own.before.right and own.broken == other.broken and own.example.texts == other.example.texts
        # TextAttack reads the text itself once more.
        assert own.queries + 1 == other.queries and own.after.loss == pytest.approx(other.after.loss, rel=1e-6)
    assert 10 < sum(one.broken for one in found[0]) < 50


def test_a_recipe_is_keyed_leaves_random_numbers_as_they_were_and_keeps_to_its_queries(recipes):
    victim, examples = problem()
    recipe = recipes.recipe("textattack_deepwordbug")
    random.seed(3), np.random.seed(3)
    expected = random.random(), np.random.random()
    for budget in (1, 2, 5, 9, 30):
        random.seed(3), np.random.seed(3)
        found, _ = attacked(recipe, victim, examples[:6], max_queries=budget)
        assert (random.random(), np.random.random()) == expected
        assert all(one.queries <= budget for one in found)
        assert found == attacked(recipe, victim, examples[:6], max_queries=budget)[0]
    assert any(one.broken for one in found)
    assert RECIPES[recipe.name] == "DeepWordBugGao2018"


def test_what_a_recipe_lacks_is_said_before_anything_is_attacked(recipes, monkeypatch):
    def without_a_list(wrapper):
        raise LookupError("\n*****\n  Resource 'wordnet' not found.\n")

    names = ("characters", "textattack_pwws", "textattack_deepwordbug")
    monkeypatch.setattr(recipes.imported().attack_recipes.PWWSRen2019, "build", without_a_list)
    (found,) = recipes.recipe_problems(names, bag_victim({"word": (0.0,)}, SIGN).model)
    assert found.value == "textattack_pwws" and "Resource 'wordnet' not found." in found.reason
