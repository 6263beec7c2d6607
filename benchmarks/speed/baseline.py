"""MAT's outer step as in its authors' code, in plain torch on one process, for comparison.

It has the semantics of their code (Zhong et al. 2023): the perturbation's loop makes whole backward passes and discards the
parameters' gradients, clean and perturbed sentences have separate passes, noise and averages are computed tensor by tensor, and
two copies of the weights are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div


@dataclass(frozen=True)
class Sizes:
    """The settings of the authors' runs on CoLA; `delta_noise` and `theta_noise` are step size times noise ratio."""

    delta_steps: int = 5
    theta_steps: int = 5
    delta_lr: float = 1e-3
    delta_size: float = 1e-5
    delta_noise: float = 2e-4
    theta_noise: float = 2e-6
    lr: float = 1e-5
    lam: float = 1.0
    beta: float = 0.3


def divergence(one: Tensor, other: Tensor) -> Tensor:
    """KL(one || other) + KL(other || one), mean over the batch."""
    p, q = one.log_softmax(-1), other.log_softmax(-1)
    return kl_div(q, p, reduction="batchmean", log_target=True) + kl_div(p, q, reduction="batchmean", log_target=True)


class Baseline:
    """The authors' loop.

    Args:
        model: a classifier of transformers.
        sizes: of both players' chains.
    """

    def __init__(self, model: nn.Module, sizes: Sizes):
        self.model, self.sizes = model.train(), sizes
        self.words = model.get_input_embeddings()
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=sizes.lr)

    def passes(self, words: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Logits for word embeddings."""
        rest = {name: value for name, value in inputs.items() if name != "input_ids"}
        return self.model(inputs_embeds=words, **rest).logits

    def perturbation(self, inputs: dict[str, Tensor]) -> Tensor:
        """The moving average of the samples of delta."""
        s, words = self.sizes, self.words(inputs["input_ids"]).detach()
        delta = s.delta_size * torch.randn_like(words)
        mean, clean = delta.clone(), self.passes(words, inputs).detach()
        for _ in range(s.delta_steps):
            delta.requires_grad_()
            divergence(clean, self.passes(words + delta, inputs)).backward()
            gradient = delta.grad
            assert gradient is not None
            delta = delta.detach()
            delta = delta + s.delta_lr * gradient / gradient.abs().amax((1, 2), keepdim=True).clamp(min=1e-8)
            norm = delta.abs().amax((1, 2), keepdim=True)
            delta = torch.where(norm > s.delta_size, delta * s.delta_size / norm.clamp(min=1e-30), delta)
            delta = delta + (2 * s.delta_lr) ** 0.5 * s.delta_noise * torch.randn_like(delta)
            mean = s.beta * mean + (1 - s.beta) * delta
        return mean

    def step(self, inputs: dict[str, Tensor], labels: Tensor) -> None:
        """One outer step on one batch."""
        s, delta = self.sizes, self.perturbation(inputs)
        before = {name: value.clone() for name, value in self.model.state_dict().items()}
        mean = {name: value.clone() for name, value in before.items()}
        for _ in range(s.theta_steps):
            self.optimizer.zero_grad()
            words = self.words(inputs["input_ids"])
            clean, perturbed = self.passes(words, inputs), self.passes(words + delta, inputs)
            (cross_entropy(clean, labels) + s.lam * divergence(clean, perturbed)).backward()
            self.optimizer.step()
            with torch.no_grad():
                for p in self.model.parameters():
                    p.data = p.data + (2 * s.lr) ** 0.5 * s.theta_noise * torch.randn_like(p)
                for name, value in self.model.state_dict().items():
                    mean[name] = s.beta * mean[name] + (1 - s.beta) * value
        with torch.no_grad():
            self.model.load_state_dict({name: s.beta * before[name] + (1 - s.beta) * mean[name] for name in before})
