"""Which units the passes of a model drop, read from the zeros that dropout leaves instead of from seeds."""

from contextlib import contextmanager

import torch
from torch.nn import functional


def distinct(passes):
    """The number of different sets of dropped units."""
    return len({tuple(dropped.flatten().tolist()) for dropped in passes})


def shares(passes):
    """The share of units that each pass dropped."""
    return [dropped.float().mean().item() for dropped in passes]


@contextmanager
def dropped_units(model, examples):
    """Records which units each pass within the context dropped, in order: (examples, units) bool.

    Args:
        model: with `eager` attention, since a fused kernel does not expose what it drops.
        examples: of one pass; a pass over n times as many counts as n passes.
    """
    passes, layers, dropout = [], [], functional.dropout

    def noted(units, *args, **kwargs):
        kept = dropout(units, *args, **kwargs)
        layers.append(((kept == 0) & (units != 0)).flatten(1))
        return kept

    hooks = [
        model.register_forward_pre_hook(lambda *_: layers.clear()),
        model.register_forward_hook(lambda *_: passes.extend(torch.cat(layers, 1).split(examples))),
    ]
    functional.dropout = noted
    try:
        yield passes
    finally:
        functional.dropout = dropout
        for hook in hooks:
            hook.remove()
