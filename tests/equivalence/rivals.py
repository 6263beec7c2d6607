"""The rivals of MAT in plain single-process torch and float64, written from their papers, for comparison with sharded runs.

Like `oracle.py`, this shares no code with mat_ds: perturbations are added through `inputs_embeds`, norms are computed for
each sample over its real tokens, and dropout is off.
"""

import copy
from dataclasses import dataclass

import torch

from tests.equivalence.ascents import descend_elsewhere, layer_steps, sharp_steps
from tests.equivalence.balls import climb, into_ball, per_sample, uniform_start, unit
from tests.equivalence.oracle import Task, make_optimizer


@dataclass
class Settings:
    """The hyper-parameters of a run; each method uses some of them."""

    update: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.01
    layer_decay: float = 1.0
    head_lr: float | None = None
    regression: bool = False
    delta_steps: int = 3
    layer_steps: int = 3
    delta_lr: float = 0.1
    delta_init: float = 0.2
    delta_max_norm: float = 0.3
    delta_norm: str = "l2"
    projection: str = "clamp"
    follower: str = "joint"
    alpha: float = 0.5
    lam: float = 1.0
    mu: float = 1.0
    decay: float = 0.999
    rho: float = 0.05
    adaptive: bool = False
    gamma: float = 5e-3
    early_decay: float = 0.99  # as in the paper
    own_task: object = None

    @property
    def task(self):
        return self.own_task or Task(self.regression)


def freelb(model, batch, s, noise, t, **_):
    delta = uniform_start(batch, noise.uniform(t), s)
    for _ in range(s.delta_steps):
        delta = delta.detach().requires_grad_()
        (s.task.losses(s.task.logits(model, batch, delta), batch).mean() / s.delta_steps).backward()
        delta = climb(batch, delta, delta.grad, s)


def yopo(model, batch, s, noise, t, **_):
    """p at the output of the first layer, then n ascents on <p, that output>; the gradients of m passes are averaged."""
    first = []
    layers = model.roberta.encoder.layer if hasattr(model, "roberta") else model.model.layers
    hook = layers[0].register_forward_hook(lambda _, __, output: first.append(output))
    delta = uniform_start(batch, noise.uniform(t), s)
    for j in range(s.delta_steps):
        loss = s.task.losses(s.task.logits(model, batch, delta), batch).mean()
        (p,) = torch.autograd.grad(loss, first[-1], retain_graph=True)
        (loss / s.delta_steps).backward()
        for _ in range(s.layer_steps if j < s.delta_steps - 1 else 0):
            delta = delta.detach().requires_grad_()
            s.task.logits(model, batch, delta)
            (g,) = torch.autograd.grad((p * first[-1]).sum(), delta)
            delta = climb(batch, delta, g, s)
    hook.remove()


def ascended(model, batch, s, noise, t):
    delta = uniform_start(batch, noise.uniform(t), s)
    for _ in range(s.delta_steps):
        delta = delta.detach().requires_grad_()
        (g,) = torch.autograd.grad(s.task.losses(s.task.logits(model, batch, delta), batch).mean(), delta)
        delta = climb(batch, delta, g, s)
    return delta


def pgd(model, batch, s, noise, t, **_):
    delta = ascended(model, batch, s, noise, t)
    s.task.losses(s.task.logits(model, batch, delta), batch).mean().backward()


def freeat(model, batch, s, noise, t, update, **_):
    delta = uniform_start(batch, noise.uniform(t), s)
    for replay in range(s.delta_steps):
        delta = delta.detach().requires_grad_()
        s.task.losses(s.task.logits(model, batch, delta), batch).mean().backward()
        delta = climb(batch, delta, delta.grad, s)
        if replay < s.delta_steps - 1:
            update()


def virtual(model, batch, s, noise, t):
    """Ascent on the divergence from the clean prediction, from a normal start, clamped to the Linf ball."""
    delta = s.delta_init * per_sample(lambda d: d, batch, noise.normal(t))
    clean = s.task.logits(model, batch).detach()
    for _ in range(s.delta_steps):
        delta = delta.detach().requires_grad_()
        (g,) = torch.autograd.grad(s.task.divergences(clean, s.task.logits(model, batch, delta), batch).sum(), delta)
        step = lambda d, g: into_ball(d + s.delta_lr * unit(g, "linf"), s.delta_max_norm, "clamp")  # noqa: E731
        delta = per_sample(step, batch, delta.detach(), g)
    return delta


def regularised(model, batch, s, delta):
    clean = s.task.logits(model, batch)
    r = s.task.divergences(clean, s.task.logits(model, batch, delta), batch).mean()
    return clean, s.task.losses(clean, batch).mean() + s.lam * r


def alum(model, batch, s, noise, t, **_):
    regularised(model, batch, s, virtual(model, batch, s, noise, t))[1].backward()


def smart(model, batch, s, noise, t, teacher, **_):
    clean, loss = regularised(model, batch, s, virtual(model, batch, s, noise, t))
    taught = s.task.logits(teacher, batch).detach()
    (loss + s.mu * s.task.divergences(clean, taught, batch).mean()).backward()


def rdrop(model, batch, s, noise, t, **_):
    first, second = s.task.logits(model, batch), s.task.logits(model, batch)
    task = s.task.losses(first, batch).mean() + s.task.losses(second, batch).mean()
    weight = s.alpha / s.task.directions
    (task + weight * s.task.divergences(first, second, batch).mean()).backward()


def r3f(model, batch, s, noise, t, **_):
    """The noised pass sees a constant copy of the word embeddings."""
    words = model.get_input_embeddings()(batch["input_ids"].flatten(0, -2))
    delta = s.delta_init * per_sample(lambda d: d, batch, noise.uniform(t))
    clean = s.task.logits(model, batch)
    noised = s.task.logits(model, batch, delta + words.detach() - words)
    (s.task.losses(clean, batch).mean() + s.lam * s.task.divergences(clean, noised, batch).mean()).backward()


def neftune(model, batch, s, noise, t, **_):
    """Entries within +-alpha / sqrt(n H) on each of the sample's n real tokens; no clean pass."""
    delta = per_sample(lambda d: s.alpha * d * d.numel() ** -0.5, batch, noise.uniform(t))
    s.task.losses(s.task.logits(model, batch, delta), batch).mean().backward()


def salt_objective(model, batch, s, start):
    """F(theta), a scalar with its whole graph: theta is in both predictions of every payoff, and in the step between them."""
    start = start.detach().requires_grad_()

    def payoff(delta, constant=False):
        clean = s.task.logits(model, batch)
        return s.task.divergences(clean.detach() if constant else clean, s.task.logits(model, batch, delta), batch)

    (g,) = torch.autograd.grad(payoff(start, s.follower == "released").sum(), start, create_graph=True)
    step = lambda d, g: into_ball(d + s.delta_lr * unit(g, s.delta_norm), s.delta_max_norm, s.projection)  # noqa: E731
    answer = per_sample(step, batch, start.detach(), g)
    return s.task.losses(s.task.logits(model, batch), batch).mean() + s.lam * payoff(answer).mean()


def salt(model, batch, s, noise, t, **_):
    salt_objective(model, batch, s, s.delta_init * per_sample(lambda d: d, batch, noise.normal(t))).backward()


def sam(model, batch, s, noise, t, **_):
    descend_elsewhere(model, batch, s, sharp_steps)


def awp(model, batch, s, noise, t, **_):
    """Both ascents start from theta_t: that of delta first."""
    descend_elsewhere(model, batch, s, layer_steps, ascended(model, batch, s, noise, t) if s.delta_steps else None)


METHODS = {f.__name__: f for f in (sam, awp, freelb, yopo, pgd, freeat, alum, smart, rdrop, r3f, neftune, salt)}


class UnitHead(torch.nn.Module):
    """R4F's head: its last matrix is divided by the largest singular value."""

    def forward(self, weight):
        return weight / torch.linalg.svdvals(weight)[0]


def run(model, batches, s, method, noise):
    """Makes one outer step per global batch; returns parameters, their uniform and their moving average, by name.

    Args:
        model: of the task; it is copied.
        batches: one dict of inputs and `labels` per outer step.
        method: its name; `r4f` is r3f with a unit head.
        noise: the random numbers (`tests.support.drawn.DrawnNoise`).
    """
    model = copy.deepcopy(model).double().eval()
    model.set_attn_implementation("eager")  # the fused kernels have no second derivative
    optimizer = make_optimizer(model, s)
    names = [name for name, _ in model.named_parameters()]
    parameters = list(model.parameters())
    if method == "r4f":
        last = s.task.last_layer(model)
        torch.nn.utils.parametrize.register_parametrization(last, "weight", UnitHead())
    teacher = copy.deepcopy(model)
    uniform, moving = ([p.detach().clone() for p in parameters] for _ in range(2))

    def update():
        for p in parameters:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        optimizer.step()
        optimizer.zero_grad()

    for t, batch in enumerate(batches):
        optimizer.zero_grad()
        METHODS["r3f" if method == "r4f" else method](model, batch, s, noise, t, update=update, teacher=teacher)
        update()
        with torch.no_grad():
            beta = s.early_decay if t / len(batches) < 0.1 else s.decay
            for p, q in zip(teacher.parameters(), model.parameters(), strict=True):
                p.copy_(beta * p + (1 - beta) * q)
            uniform = [(m * t + p) / (t + 1) for m, p in zip(uniform, parameters, strict=True)]
            moving = [s.decay * m + (1 - s.decay) * p for m, p in zip(moving, parameters, strict=True)]
    return tuple(dict(zip(names, [v.detach() for v in values], strict=True)) for values in (parameters, uniform, moving))
