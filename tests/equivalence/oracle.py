"""MAT and vanilla fine-tuning in plain single-process torch and float64, for comparison with sharded runs.

It shares no code with mat_ds. The perturbation is added through `inputs_embeds` with explicit position ids, norms are
computed for each sample over its real tokens, torch's optimizers update the parameters, and the averages of Algorithm 2
are kept as in the paper, in whole copies of the model. Dropout is off. Random numbers are passed in by the test, so that
both sides use the same.
"""

import copy
import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass
class Settings:
    """The hyper-parameters of a run, with the paper's names where it has them."""

    update: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.01
    layer_decay: float = 1.0
    head_lr: float | None = None
    max_grad_norm: float = 0.0
    lam: float = 1.0
    delta_steps: int = 3
    theta_steps: int = 4
    delta_lr: float = 1e-2
    delta_init_scale: float = 1e-2
    delta_max_norm: float = 5e-2
    delta_projection: str = "rescale"
    delta_gradient: str = "linf"
    beta_s: float = 0.3
    beta_p: float = 0.3
    delta_beta: float | None = None
    theta_beta: float | None = None
    delta_direction: str = "adversary"
    semantics: str = "paper"
    regression: bool = False
    own_task: object = None

    @property
    def task(self):
        return self.own_task or Task(self.regression)


class NoNoise:
    """The random numbers of a run: every entry of the first delta is one, and there is no Langevin noise."""

    def first_delta(self, t, shape):
        """(B, L, H), in units of delta_init_scale."""
        return torch.ones(shape, dtype=torch.float64)

    def delta_noise(self, t, k, shape):
        """(B, L, H), the whole term sqrt(2 gamma) epsilon xi."""
        return torch.zeros(shape, dtype=torch.float64)

    def theta_noise(self, t, k, parameters):
        """One tensor per parameter, the whole term again."""
        return [torch.zeros_like(p) for p in parameters]


def logits_of(model, batch, delta=None):
    """Logits of a RoBERTa with x + delta in place of its word embeddings x."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    pad = model.config.pad_token_id
    positions = torch.cumsum(mask, 1) * mask + pad
    words = model.get_input_embeddings()(ids)
    return model(inputs_embeds=words if delta is None else words + delta, attention_mask=mask, position_ids=positions).logits


def symmetric_divergence(z, z_adv, regression):
    """One number per sample."""
    if regression:
        return (z - z_adv).pow(2).squeeze(1)
    p, q = z.softmax(1), z_adv.softmax(1)
    return (p * (p / q).log()).sum(1) + (q * (q / p).log()).sum(1)


def task_loss(z, labels, regression):
    return F.mse_loss(z.squeeze(1), labels.to(z.dtype)) if regression else F.cross_entropy(z, labels)


class Task:
    """What the oracles know of a task: here of a RoBERTa's with one answer for each sample. Others are in `kinds.py`.

    Attributes:
        directions: how many divergences R is the sum of.
    """

    def __init__(self, regression=False):
        self.regression, self.directions = regression, 1 if regression else 2

    def logits(self, model, batch, delta=None):
        return logits_of(model, batch, delta)

    def losses(self, z, batch):
        """(samples,)."""
        return torch.stack([task_loss(z[i : i + 1], batch["labels"][i : i + 1], self.regression) for i in range(len(z))])

    def last_layer(self, model):
        """The last linear layer of the head."""
        return getattr(model.classifier, "out_proj", model.classifier)

    def divergences(self, z, z_adv, batch):
        """(samples,)."""
        return symmetric_divergence(z, z_adv, self.regression)


def real_mask(batch):
    """1 on real tokens, 0 on padding, one row for each text. A text of one token stands for a choice that there is not."""
    mask = batch["attention_mask"].flatten(0, -2)
    return mask * (mask.sum(1, keepdim=True) > 1)


def bounded(sample, s):
    """One sample (n real tokens, H) within the Linf ball."""
    most = s.delta_max_norm
    return sample.clamp(-most, most) if s.delta_projection == "clamp" else sample * min(1.0, most / sample.abs().max())


def direction(sample, s):
    """Normalised gradient of one sample."""
    if s.delta_gradient == "sign":
        return (sample > 0).double() - (sample < 0).double()
    norm = {"linf": sample.abs().max(), "l2": sample.pow(2).sum().sqrt(), "raw": torch.ones(())}[s.delta_gradient]
    return sample / norm


def mean_perturbation(model, batch, s, noise, t):
    """Lines 2 to 7 of Algorithm 2."""
    real_rows = real_mask(batch)
    mask = real_rows.unsqueeze(-1).double()
    shape = (*real_rows.shape, model.get_input_embeddings().embedding_dim)
    lengths = real_rows.sum(1)
    delta = s.delta_init_scale * mask * noise.first_delta(t, shape)
    if s.semantics == "paper":
        delta = torch.stack([bounded(row, s) for row in delta])
    mean = delta.clone()
    for k in range(s.delta_steps):
        delta = delta.detach().requires_grad_()
        r = s.task.divergences(s.task.logits(model, batch).detach(), s.task.logits(model, batch, delta), batch).sum()
        (g,) = torch.autograd.grad(s.lam * r if s.delta_gradient == "raw" else r, delta)
        moved, xi = torch.zeros_like(delta), mask * noise.delta_noise(t, k, shape)
        for i, n in ((i, n) for i, n in enumerate(lengths) if n):
            real = slice(0, n) if real_rows[i, 0] else slice(-n, None)
            step = delta[i, real].detach() + s.delta_lr * direction(g[i, real], s)
            if s.semantics == "paper":
                moved[i, real] = bounded(step + xi[i, real], s)
            else:
                moved[i, real] = bounded(step, s) + xi[i, real]
        delta = moved
        decay = s.beta_s if s.delta_beta is None else s.delta_beta
        mean = decay * mean + (1 - decay) * delta
    if s.delta_direction == "random":
        drawn = mask * noise.random_direction(t)
        mean = torch.stack([other * (own.norm() / other.norm()) for own, other in zip(mean, drawn, strict=True)])
    return mean.detach()


def trained(model):
    """The parameters that are not frozen."""
    return [p for p in model.parameters() if p.requires_grad]


def learning_rates(model, s):
    """One number per trained parameter of a RoBERTa of n layers: lr decay^(n+1) for its embeddings, lr decay^(n-i) for layer i,
    counted from 0, and lr, or its own, for the head."""
    n, rates = model.config.num_hidden_layers, []
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        if "roberta.embeddings." in name:
            rates.append(s.lr * s.layer_decay ** (n + 1))
        elif layer := re.search(r"roberta\.encoder\.layer\.(\d+)\.", name):
            rates.append(s.lr * s.layer_decay ** (n - int(layer[1])))
        else:
            rates.append(s.lr if s.head_lr is None else s.head_lr)
    return rates


def make_optimizer(model, s):
    groups = [
        {"params": [p], "lr": lr, "weight_decay": s.weight_decay if p.ndim > 1 else 0.0}
        for p, lr in zip(trained(model), learning_rates(model, s), strict=True)
    ]
    if s.update == "sgd":
        return torch.optim.SGD(groups)
    adam = s.update == "adam"
    return torch.optim.AdamW(groups) if adam else torch.optim.RMSprop(groups, alpha=0.99)


def run(model, batches, s, method="mat", noise=None):
    """Makes one outer step per global batch; returns the trained parameters by name, in float64.

    Args:
        model: a RobertaForSequenceClassification, with or without adapters; it is copied.
        batches: one dict of `input_ids`, `attention_mask` and `labels` per outer step.
        noise: the random numbers; none by default.
    """
    model = copy.deepcopy(model).double().eval()
    optimizer = make_optimizer(model, s)
    for t, batch in enumerate(batches):
        outer_step(model, optimizer, batch, s, method, noise or NoNoise(), t)
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def outer_step(model, optimizer, batch, s, method, noise, t):
    """One outer step on a batch, in place."""
    start = [p.detach().clone() for p in trained(model)]
    adversarial = method == "mat" and s.lam > 0
    delta = mean_perturbation(model, batch, s, noise, t) if adversarial else None
    average = [p.clone() for p in start]
    for k in range(s.theta_steps if method == "mat" else 1):
        z = s.task.logits(model, batch)
        loss = s.task.losses(z, batch).mean()
        if adversarial:
            z_adv = s.task.logits(model, batch, delta)
            loss = loss + s.lam * s.task.divergences(z, z_adv, batch).mean()
        optimizer.zero_grad()
        loss.backward()
        for p in trained(model):
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        if s.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(trained(model), s.max_grad_norm)
        optimizer.step()
        if s.semantics == "released" and k == 0:
            start = [p.detach().clone() for p in trained(model)]
            average = [p.clone() for p in start]
        with torch.no_grad():
            own = learning_rates(model, s)  # the noise is that of s.lr
            for p, lr, xi in zip(trained(model), own, noise.theta_noise(t, k, trained(model)), strict=True):
                p.add_((lr / s.lr) ** 0.5 * xi)
        decay = s.beta_s if s.theta_beta is None else s.theta_beta
        average = [decay * m + (1 - decay) * p.detach() for m, p in zip(average, trained(model), strict=True)]
    if method == "mat":
        with torch.no_grad():
            for p, before, m in zip(trained(model), start, average, strict=True):
                p.copy_(s.beta_p * before + (1 - s.beta_p) * m)


def distance(result, expected, origin):
    """||theta - theta*|| / ||theta* - theta_0|| over all parameters but attention key biases, whose gradient is zero."""
    names = [name for name in expected if not name.endswith("key.bias")]
    far = sum((result[n].double() - expected[n]).pow(2).sum() for n in names).sqrt()
    moved = sum((expected[n] - origin[n].double()).pow(2).sum() for n in names).sqrt()
    return (far / moved).item()
