"""How the next perturbation follows from a gradient: steps of one length, or APGD.

Shapes: B texts of S samples, where a sample has one text or as many as choices; delta (B, L, H).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from mat_ds.evaluation.attacks.embedding_balls import Ball

# Of APGD: the weight of the new step beside the last, and the share of steps that have to raise the loss.
ALPHA, RHO = 0.75, 0.75


class Steps(Protocol):
    """The steps of one ascent."""

    def after(self, delta: Tensor, losses: Tensor, gradient: Tensor) -> Tensor:
        """The next perturbation.

        Args:
            delta: the present one, (B, L, H).
            losses: at delta, (S,).
            gradient: of their sum, (B, L, H).
        """


class FixedSteps:
    """delta_{k+1} = P[delta_k + length a_k] * mask, where a_k is the steepest step and P projects into the ball
    (Madry et al., 2018, eq. 3)."""

    def __init__(self, ball: Ball, radius: float, length: float, steps: int, mask: Tensor):
        self._ball, self._radius, self._length, self._mask = ball, radius, length, mask

    def after(self, delta: Tensor, losses: Tensor, gradient: Tensor) -> Tensor:
        return self._ball.project(delta + self._length * self._ball.steepest(gradient), self._radius) * self._mask


class Apgd:
    """Auto-PGD (Croce and Hein, 2020, Algorithm 1), each sample with a step length eta of its own:

        z_{k+1} = P[delta_k + eta a_k]
        delta_{k+1} = P[delta_k + alpha (z_{k+1} - delta_k) + (1 - alpha) (delta_k - delta_{k-1})]

    At a checkpoint eta is halved, and the ascent goes on from the best delta so far, if less than a share rho of the steps
    since the last checkpoint raised the loss, or if the best loss is still that of the last checkpoint, where eta was not
    halved.
    """

    def __init__(self, ball: Ball, radius: float, length: float, steps: int, mask: Tensor):
        self._ball, self._radius, self._mask = ball, radius, mask
        self._checkpoints, self._k, self._last_check = set(checkpoints(steps)), 0, 0
        # Of each text, (B, 1, 1); a sample's texts have equal entries.
        self._eta = torch.full((len(mask), 1, 1), length, device=mask.device)

    def after(self, delta: Tensor, losses: Tensor, gradient: Tensor) -> Tensor:
        loss = losses.repeat_interleave(len(delta) // len(losses)).view(-1, 1, 1)
        if self._k == 0:
            self._before, self._best, self._best_gradient = delta, delta, gradient
            self._last_loss = self._most = self._most_checked = loss
            self._rises, self._halved = torch.zeros_like(loss), torch.zeros_like(loss, dtype=torch.bool)
        self._rises = self._rises + (loss > self._last_loss)
        better = loss > self._most
        self._best, self._most = delta.where(better, self._best), loss.where(better, self._most)
        self._best_gradient = gradient.where(better, self._best_gradient)
        if self._k in self._checkpoints:
            stuck = self._rises < RHO * (self._k - self._last_check)
            stuck = stuck | (~self._halved & (self._most == self._most_checked))
            self._eta = (self._eta / 2).where(stuck, self._eta)
            delta, loss = self._best.where(stuck, delta), self._most.where(stuck, loss)
            gradient = self._best_gradient.where(stuck, gradient)
            self._rises, self._halved, self._last_check = torch.zeros_like(loss), stuck, self._k
            self._most_checked = self._most
        moved = self._ball.project(delta + self._eta * self._ball.steepest(gradient), self._radius)
        if self._k:
            moved = self._ball.project(delta + ALPHA * (moved - delta) + (1 - ALPHA) * (delta - self._before), self._radius)
        self._before, self._last_loss, self._k = delta, loss, self._k + 1
        return moved * self._mask


def checkpoints(steps: int) -> Iterator[int]:
    """The iterations at which APGD may halve its steps: ceil(p_j steps) with p_1 = 0.22 and
    p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), in hundredths so that nothing is rounded."""
    before, share = 0, 22
    while share <= 100:
        yield -(-share * steps // 100)
        before, share = share, share + max(share - before - 3, 6)


SCHEDULES: dict[str, Callable[[Ball, float, float, int, Tensor], Steps]] = {"fixed": FixedSteps, "apgd": Apgd}
