"""What is named is frozen, and nothing else; what cannot be meant is refused."""

import pytest

from mat_ds.errors import UserError
from mat_ds.models.freeze import fits, freeze
from mat_ds.models.options import ModelConfig
from tests.support.families import build
from tests.support.tiny import tiny_roberta


def frozen(model, fresh=(), **options):
    freeze(model, ModelConfig(**options), fresh)
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def refused(model, fresh=(), **options):
    with pytest.raises(UserError) as caught:
        freeze(model, ModelConfig(**options), fresh)
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(
    "pattern, named",
    [
        ("embeddings", True),
        ("word_embeddings", True),
        ("roberta.embeddings.word_embeddings.weight", True),
        ("word_*", True),
        ("*.word_embeddings", True),
        ("embedding", False),
        ("word_embeddings.bias", False),
        ("roberta.word_embeddings", False),
        ("", False),
    ],
)
def test_a_pattern_is_made_of_whole_parts_of_a_name(pattern, named):
    assert fits("roberta.embeddings.word_embeddings.weight", pattern) == named


def test_names_freeze_modules_and_parameters():
    names = {name for name, _ in tiny_roberta().named_parameters()}
    assert frozen(tiny_roberta()) == set()
    assert frozen(tiny_roberta(), freeze=["embeddings"]) == {n for n in names if ".embeddings." in n} != set()
    both = frozen(tiny_roberta(), freeze=["layer.0.attention", "bias"])
    assert both == {n for n in names if ".layer.0.attention." in n or n.endswith(".bias")}
    assert frozen(tiny_roberta(), freeze=["layer.[0-1].output.*"]) == {
        n for n in names if ".output." in n and ".attention." not in n
    }


def test_the_first_layers_are_frozen_with_what_comes_before_them():
    names = {name for name, _ in tiny_roberta().named_parameters()}
    first = {n for n in names if ".embeddings." in n or ".layer.0." in n}
    assert frozen(tiny_roberta(), freeze_layers=1) == first
    assert frozen(tiny_roberta(), freeze_layers=2) == {n for n in names if n.startswith("roberta.")}
    # ALBERT has one layer of weights, with what leads to it.
    left = {name for name, _ in build("albert").named_parameters()} - frozen(build("albert"), freeze_layers=1)
    assert left == {"albert.pooler.weight", "albert.pooler.bias", "classifier.weight", "classifier.bias"}


def test_what_is_not_there_or_leaves_nothing_is_refused():
    problem = refused(tiny_roberta(), freeze=["embedings"])
    assert problem.key == "model.freeze" and "names no parameter" in problem.reason and "'embeddings'" in problem.fix
    assert problem.value == "embedings"
    problem = refused(tiny_roberta(), freeze_layers=3)
    assert problem.key == "model.freeze_layers" and "has 2 layers" in problem.reason and "at most 2" in problem.fix
    assert "layers share" in refused(build("albert"), freeze_layers=2).reason
    for options in ({"freeze": ["*"]}, {"freeze": ["classifier", "spare"], "freeze_layers": 2}):
        assert "nothing would be trained" in refused(tiny_roberta(), **options).reason


def test_weights_drawn_at_random_are_not_frozen():
    fresh = [name for name, _ in tiny_roberta().named_parameters() if name.startswith("classifier")]
    problem = refused(tiny_roberta(), fresh, freeze=["dense"])
    assert "classifier.dense.bias" in problem.reason and "random" in problem.reason
    assert frozen(tiny_roberta(), fresh, freeze_layers=2)
