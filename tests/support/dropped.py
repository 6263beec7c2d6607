"""Which units the passes of a model drop: the zeros that dropout leaves, not anybody's seeds."""

from contextlib import contextmanager

import torch
from torch.nn import functional


def distinct(passes):
    """How many different sets of dropped units there are."""
    return len({tuple(dropped.flatten().tolist()) for dropped in passes})


def shares(passes):
    """Of each pass, the share of its units that were dropped."""
    return [dropped.float().mean().item() for dropped in passes]


@contextmanager
def dropped_units(model, examples):
    """Notes of each pass made within it, in order, which units were dropped: (examples, units) bool.

    Args:
        model: with attention in plain operations (`eager`): a fused kernel tells nobody what it drops.
        examples: of one pass; a pass over a multiple of them is as many passes at once.
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
