"""Losses other than a task's own, in plain float64 torch. Shares no code with mat_ds.

L = mean over the samples of w_i l_i,   l_i = -sum_c q_c (1 - p_c)^gamma log p_c,

where q is the label (or its probabilities), smoothed, and w_i the weight of its row times that of its class, divided by the
mean over the training set.
"""

import torch
import torch.nn.functional as F

from tests.equivalence.oracle import Task


class Weighted(Task):
    """Classification or regression whose batches may have `weights` of rows and `probabilities` in place of a label.

    Args:
        training_set: all batches.
        class_weights: `auto`, or one for each class.
    """

    def __init__(self, training_set, regression=False, class_weights=None, smoothing=0.0, gamma=0.0):
        super().__init__(regression)
        self.training_set, self.class_weights, self.smoothing, self.gamma = training_set, class_weights, smoothing, gamma

    def unscaled(self, batch):
        """r_i sum_c y_ic a_c, (samples,)."""
        rows = batch["weights"].double()
        if self.regression or not self.class_weights:
            return rows
        labels = torch.cat([certain(each) for each in self.training_set])
        count, classes = labels.shape
        a = [count / (classes * n) for n in labels.sum(0).tolist()] if self.class_weights == "auto" else self.class_weights
        return rows * sum(a[c] * certain(batch)[:, c] for c in range(classes))

    def losses(self, z, batch):
        w = self.unscaled(batch) / torch.cat([self.unscaled(each) for each in self.training_set]).mean()
        if self.regression:
            return w * (z.squeeze(1) - batch["labels"]).pow(2)
        p, q = z.softmax(1), (1 - self.smoothing) * certain(batch, z.shape[1]) + self.smoothing / z.shape[1]
        return w * -(q * (1 - p) ** self.gamma * p.log()).sum(1)


def certain(batch, classes=3):
    """The probability of each label, (samples, classes)."""
    return (batch["probabilities"] if "probabilities" in batch else F.one_hot(batch["labels"], classes)).double()
