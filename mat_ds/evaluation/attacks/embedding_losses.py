"""Losses that an attack ascends in place of the task's: functions of the logits z (B, C) of classes that exclude each other.

The cross-entropy of a confident answer has a gradient that is tiny or, rounded, zero. The margin has one wherever the logits
have, and DLR besides does not change when all logits are scaled or shifted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from mat_ds.methods.batch import MicroBatch


def margin_loss(logits: Tensor, batch: MicroBatch) -> Tensor:
    """max_{c != y} z_c - z_y, (B,) in fp32, positive where the answer is wrong (Carlini and Wagner, 2017, f_6)."""
    z = logits.float()
    right = z.gather(1, batch.labels.unsqueeze(1)).squeeze(1)
    return z.scatter(1, batch.labels.unsqueeze(1), -float("inf")).amax(1) - right


def dlr_loss(logits: Tensor, batch: MicroBatch) -> Tensor:
    """-(z_y - max_{c != y} z_c) / (z_pi1 - z_pi3), (B,) in fp32, pi sorting the logits downwards (Croce and Hein, 2020, eq. 6).

    Args:
        logits: of three classes at least.
        batch: has the labels y.
    """
    largest = logits.float().topk(3, dim=1).values
    # As in the authors' code: three equal logits would divide by zero.
    return margin_loss(logits, batch) / (largest[:, 0] - largest[:, 2] + 1e-12)


# None: the task's own loss.
ASCENDED = {"task": None, "margin": margin_loss, "dlr": dlr_loss}
