"""The perturbations of the float64 oracles: each sample's, over its real tokens, within its ball."""

import torch

from tests.equivalence.oracle import real_mask


def real_tokens(batch):
    """The slice of real tokens of each sample."""
    return [slice(0, int(mask.sum())) if mask[0] else slice(-int(mask.sum()), None) for mask in real_mask(batch)]


def per_sample(function, batch, *tensors):
    """Applies `function` to the real tokens of each sample; zeros elsewhere."""
    rows = []
    for i, real in enumerate(real_tokens(batch)):
        if not real_mask(batch)[i].any():
            rows.append(torch.zeros_like(tensors[0][i]))
            continue
        keep = torch.zeros_like(tensors[0][i])
        keep[real] = 1.0
        value = function(*(tensor[i][real] for tensor in tensors))
        rows.append(torch.zeros_like(keep).masked_scatter(keep.bool(), value))
    return torch.stack(rows)


def unit(g, norm):
    """The direction of one sample's ascent; a sample whose loss weighs nothing does not move."""
    if not g.any():
        return g
    return {"linf": lambda: g / g.abs().max(), "l2": lambda: g / g.pow(2).sum().sqrt(), "raw": lambda: g}[norm]()


def into_ball(d, radius, kind):
    if kind == "clamp":
        return d.clamp(-radius, radius)
    size = d.pow(2).sum().sqrt() if kind == "l2" else d.abs().max()
    return d * (radius / size) if size > radius else d


def uniform_start(batch, drawn, s):
    """FreeLB's start: entries within +-mag / sqrt(n H), where n is the sample's number of real tokens."""
    scale = (lambda d: d.numel() ** -0.5) if s.delta_norm == "l2" else (lambda d: 1.0)
    return per_sample(lambda d: s.delta_init * d * scale(d), batch, drawn)


def climb(batch, delta, g, s):
    ball = "l2" if s.delta_norm == "l2" else "clamp"
    step = lambda d, g: into_ball(d + s.delta_lr * unit(g, s.delta_norm), s.delta_max_norm, ball)  # noqa: E731
    return per_sample(step, batch, delta.detach(), g)
