"""Keeps parameters from being trained, by name or by layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from torch import Tensor, nn

from mat_ds.errors import Problem, first_names, nearest, raise_if_any
from mat_ds.models.depth import depths
from mat_ds.models.options import ModelConfig

# Names in a message.
MOST = 4


def freeze(model: nn.Module, options: ModelConfig, fresh: Iterable[str]) -> None:
    """Freezes what `model.freeze` and `model.freeze_layers` name: no gradient, no optimizer state, exported as it is.

    Args:
        model: without adapters; changed in place.
        options: of the model.
        fresh: names of parameters that were randomly initialised.

    Raises:
        UserError: if a name or a layer does not exist, nothing would be left to train, or random weights would stay random.
    """
    if not options.freeze and not options.freeze_layers:
        return
    # A shared parameter has several names, and is known by each of them.
    names = list(model.named_parameters(remove_duplicate=False))
    raise_if_any(_unmatched([name for name, _ in names], options.freeze))
    named = {parameter for name, parameter in names for pattern in options.freeze if fits(name, pattern)}
    for parameter in named | _first_layers(model, options.freeze_layers):
        parameter.requires_grad_(False)
    raise_if_any(_useless(model, options, set(fresh)))


def fits(name: str, pattern: str) -> bool:
    """Whether consecutive parts of a parameter's name, which are between its dots, are those of a pattern.

    `embeddings` names all of `roberta.embeddings.word_embeddings.weight`, `layer.0.attention` or `layer.*.attention` parts of
    `roberta.encoder.layer.0.attention.self.query.bias`; `*`, `?` and `[...]` stand for letters within a part.
    """
    parts, wanted = name.split("."), pattern.split(".")
    starts = range(len(parts) - len(wanted) + 1)
    return any(all(map(fnmatchcase, parts[start:], wanted)) for start in starts)


def _first_layers(model: nn.Module, count: int) -> set[Tensor]:
    """The parameters of the embeddings and of the first layers; none if `count` is 0."""
    if not count:
        return set()
    found = depths(model)
    if count > found.layers:
        has = f"has {found.layers} layers" if found.layers > 1 else "has one layer" if found.layers else "has no list of layers"
        shared = ", whose weights all its layers share" if "Albert" in type(model).__name__ and found.layers == 1 else ""
        raise_if_any([Problem("model.freeze_layers", count, f"{type(model).__name__} {has}{shared}",
                              f"take at most {found.layers}, or name parts in model.freeze")])  # fmt: skip
    return {parameter for parameter, depth in found.of.items() if depth <= count}


def _unmatched(names: list[str], patterns: Iterable[str]) -> Iterator[Problem]:
    """Yields a problem for each pattern that names nothing."""
    parts = {part for name in names for part in name.split(".") if not part.isdigit()}
    for pattern in patterns:
        if not any(fits(name, pattern) for name in names):
            reason = "names no parameter of this model, and no module that has one"
            yield Problem("model.freeze", pattern, reason, f"{nearest(pattern, parts)} Names are parts between dots, such as "
                          f"{names[0].rpartition('.')[0]}, and * stands for letters of one part")  # fmt: skip


def _useless(model: nn.Module, options: ModelConfig, fresh: set[str]) -> Iterator[Problem]:
    """Yields a problem if nothing is left to train, or if what is frozen was never trained."""
    asked = {"model.freeze": options.freeze, "model.freeze_layers": options.freeze_layers}
    key, value = ", ".join(name for name, given in asked.items() if given), [given for given in asked.values() if given]
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    if not any(trained.values()):
        yield Problem(key, value, "freezes every parameter, so that nothing would be trained", "freeze less")
    elif drawn := sorted(name for name in fresh if not trained.get(name, True)):
        reason = f"the folder has no weights for {first_names(drawn, MOST)}: they are drawn at random and would stay so"
        yield Problem(key, value, reason, "leave them to be trained")
