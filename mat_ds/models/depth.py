"""The depth of each parameter in its model: layer-wise step sizes and freezing count layers by it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mat_ds.errors import Problem
from mat_ds.models.fit import POOLER
from mat_ds.sampling.options import OptimizerConfig


@dataclass(frozen=True)
class Depths:
    """Where the parameters of a model lie, counted as in BEiT's code (Bao et al. 2022).

    Attributes:
        layers: n, the number of layers; 0 if none were found. ALBERT's layers, which share their weights, are one.
        of: depth of each parameter: 0 for embeddings and whatever comes before the first layer, 1 .. n for the layers, n + 1
            for the rest: a pooler, the last norm, the head.
        head: the parameters that do not belong to the base model, the classifier's own.
    """

    layers: int
    of: dict[Tensor, int]
    head: set[Tensor]


def depths(model: Any) -> Depths:
    """The depths in a transformers model, with or without adapters; an adapter is as deep as the layer that it is in.

    An encoder-decoder's decoder comes after its encoder.
    """
    whole, base = _whole_and_base(model)
    layers = list(_layers(base))
    of: dict[Tensor, int] = {}
    for number, layer in enumerate(layers, 1):
        of |= {parameter: number for part in layer for parameter in part.parameters()}
    embedded = {weight for part in base.modules() if isinstance(part, nn.Embedding) for weight in part.parameters()}
    reached = False
    for name, parameter in base.named_parameters():
        reached |= parameter in of
        if parameter not in of:
            words = name.split(".")
            first = not reached or parameter in embedded or any("embed" in word for word in words)
            # NomicBERT lists its pooler before its layers.
            of[parameter] = 0 if first and layers and POOLER not in words else len(layers) + 1
    head: set[Tensor] = set(whole.parameters()) - set(base.parameters())
    return Depths(len(layers), of | dict.fromkeys(head, len(layers) + 1), head)


def layers_of(model: Any) -> list[tuple[nn.Module, ...]]:
    """The modules of each layer of a transformers model, with or without adapters; empty if none were found."""
    return list(_layers(_whole_and_base(model)[1]))


def _whole_and_base(model: Any) -> tuple[Any, Any]:
    """A model without its adapters, and its base model."""
    whole = model.get_base_model() if hasattr(model, "peft_config") else model
    return whole, getattr(whole, "base_model", whole)


def _layers(base: nn.Module) -> Iterator[tuple[nn.Module, ...]]:
    """Yields the modules of each layer: the items of the outermost lists of modules. Lists in one module (XLM's attentions,
    feed-forward networks and norms) are parts of the same layers, and those in different ones follow each other."""
    found: dict[str, nn.ModuleList] = {}
    for name, module in base.named_modules():
        inside = name.startswith(tuple(f"{outer}." for outer in found))
        if isinstance(module, nn.ModuleList) and len(module) and not inside:
            found[name] = module
    for parent in dict.fromkeys(name.rpartition(".")[0] for name in found):
        lists = [items for name, items in found.items() if name.rpartition(".")[0] == parent]
        # A layer consists of modules; lists of nothing but embeddings or norms are none.
        count = max((len(items) for items in lists if any(list(item.children()) for item in items)), default=0)
        yield from zip(*(items for items in lists if len(items) == count), strict=True)


def step_sizes(model: Any, optimizer: OptimizerConfig) -> dict[Tensor, float]:
    """The step size of each parameter as a multiple of `optimizer.lr`; empty if all have the same.

    layer_decay^(n + 1 - depth), as in BEiT's fine-tuning (ELECTRA's has one factor more for all but the head); of the head,
    if it has a step size of its own, head_lr / lr.
    """
    if not optimizer.uneven:
        return {}
    found = depths(model)
    sizes = {parameter: optimizer.layer_decay ** (found.layers + 1 - depth) for parameter, depth in found.of.items()}
    if optimizer.head_lr is not None:
        sizes |= dict.fromkeys(found.head, optimizer.head_lr / optimizer.lr)
    return sizes


def step_size_problems(model: Any, optimizer: OptimizerConfig) -> Iterator[Problem]:
    """Yields what step sizes ask for that the model does not have."""
    if not optimizer.uneven:
        return
    found = depths(model)
    if optimizer.layer_decay != 1.0 and not found.layers:
        reason = f"no list of layers was found in {type(model).__name__}"
        yield Problem("optimizer.layer_decay", optimizer.layer_decay, reason, "leave it out")
    if optimizer.head_lr is not None and not any(parameter.requires_grad for parameter in found.head):
        what = "is frozen (model.freeze)" if found.head else "is not apart from the rest of it"
        yield Problem("optimizer.head_lr", optimizer.head_lr, f"the head of {type(model).__name__} {what}", "leave it out")
