"""SAM and AWP in plain float64: theta is moved, the gradient taken there, and theta put back; used by `rivals.py`."""

import torch


def sharp_steps(parameters, slopes, s):
    """rho T^2 g / ||T g||, the norm over all parameters (Foret et al. 2021, eq. 2; Kwon et al. 2021, eq. 7)."""
    scales = [p.abs() + 0.01 if s.adaptive else torch.ones_like(p) for p in parameters]
    norm = sum((t * g).pow(2).sum() for t, g in zip(scales, slopes, strict=True)).sqrt()
    return [s.rho * t * t * g / norm for t, g in zip(scales, slopes, strict=True)]


def layer_steps(parameters, slopes, s):
    """gamma ||theta_l|| g_l / ||g_l|| for each matrix (Wu et al. 2020, eq. 10, from v = 0), nothing for vectors."""
    moved = []
    for p, g in zip(parameters, slopes, strict=True):
        length = torch.linalg.vector_norm(g)
        moves = p.ndim > 1 and length > 0
        moved.append(s.gamma * torch.linalg.vector_norm(p) * g / length if moves else torch.zeros_like(p))
    return moved


def descend_elsewhere(model, batch, s, steps_of, delta=None):
    """Leaves the gradient that is found at theta + `steps_of(theta, gradient at theta, s)`, with the same delta in both."""

    def climb():
        s.task.losses(s.task.logits(model, batch, delta), batch).mean().backward()

    trained = [p for p in model.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in trained]
    climb()
    slopes = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    with torch.no_grad():
        for p, step in zip(trained, steps_of(start, slopes, s), strict=True):
            p.add_(step)
    model.zero_grad()
    climb()
    with torch.no_grad():
        for p, before in zip(trained, start, strict=True):
            p.copy_(before)
