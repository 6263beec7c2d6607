"""Kinds of tasks in plain float64 torch, for comparison with sharded runs of every method that is defined for them.

Like `oracle.py`, this shares no code with mat_ds. A new kind is one class in `TASKS`: a small model, its logits with the
perturbation added through `inputs_embeds`, the loss and the divergence of each sample, and batches.
"""

from typing import ClassVar

import torch
from transformers import (
    RobertaForMultipleChoice,
    RobertaForQuestionAnswering,
    RobertaForSequenceClassification,
    RobertaForTokenClassification,
)

from tests.equivalence.oracle import Task, logits_of, symmetric_divergence
from tests.equivalence.writing import Writing
from tests.support.tiny import global_batches, tiny_config

EVERY_METHOD = (
    "vanilla", "mat", "freelb", "pgd", "freeat", "smart", "alum", "rdrop", "neftune", "r3f", "r4f", "salt", "sam", "awp",
    "yopo",
)  # fmt: skip


class OfKind(Task):
    """A kind of task.

    Attributes:
        spec: the keys of the task's description, with which mat_ds makes the kind.
        methods: those that are defined for it.
        directions: how many divergences R is the sum of.
        without_gradient: parameters that loss and divergence do not depend on, whose round-off Adam turns into whole steps.
    """

    spec: ClassVar[dict]
    methods = EVERY_METHOD
    without_gradient = ()
    directions = 2

    def __init__(self):
        pass

    def model(self, **settings):
        """The model before training, the same at each call."""
        raise NotImplementedError

    def logits(self, model, batch, delta=None):
        """What losses and divergences compare, one row for each sample."""
        return logits_of(model, batch, delta)

    def losses(self, z, batch):
        """(samples,)."""
        raise NotImplementedError

    def divergences(self, z, z_adv, batch):
        """(samples,)."""
        raise NotImplementedError

    def batches(self):
        """One dict of inputs and `labels` per outer step, of eight samples."""
        raise NotImplementedError


def built(model_class, **settings):
    """A model of one layer."""
    torch.default_generator.manual_seed(0)
    return model_class(tiny_config(num_hidden_layers=1, **settings))


def without_bias(model, *names):
    """The same without biases that have no gradient by definition, as they add the same to all logits: Adam would make steps of
    its rounding error."""
    for name in names:
        model.get_submodule(name).register_parameter("bias", None)
    return model


class MultiLabel(OfKind):
    """Four labels; of the samples some have none of them."""

    spec: ClassVar = {"kind": "multi_label", "text": ["text"], "labels": ["a", "b", "c", "d"]}

    def model(self, **settings):
        return built(RobertaForSequenceClassification, labels=4, problem_type="multi_label_classification", **settings)

    def losses(self, z, batch):
        p, y = z.sigmoid(), batch["labels"]
        return -(y * p.log() + (1 - y) * (1 - p).log()).sum(1) / 4

    def divergences(self, z, z_adv, batch):
        total = 0.0
        for p, q in ((z.sigmoid(), z_adv.sigmoid()), (z_adv.sigmoid(), z.sigmoid())):
            total = total + (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(1)
        return total / 4

    def batches(self):
        found = global_batches()
        generator = torch.Generator().manual_seed(2)
        for batch in found:
            batch["labels"] = torch.randint(0, 2, (8, 4), generator=generator).float()
            batch["labels"][0] = 0.0
        return found


class MultipleChoice(OfKind):
    """Questions of two to four choices; in place of one that is missing is a text of one token, which the loss must not see."""

    spec: ClassVar = {"kind": "multiple_choice", "text": ["question"]}
    without_gradient = ("classifier.bias",)  # the same is added to every choice

    def model(self, **settings):
        return without_bias(built(RobertaForMultipleChoice, labels=1, problem_type=None, **settings), "classifier")

    def logits(self, model, batch, delta=None):
        ids, mask = batch["input_ids"], batch["attention_mask"]
        words = model.get_input_embeddings()(ids)
        words = words if delta is None else words + delta.view_as(words)
        positions = torch.cumsum(mask, -1) * mask + model.config.pad_token_id
        return model(inputs_embeds=words, attention_mask=mask, position_ids=positions).logits

    def of_each(self, batch, *logits):
        """The logits of the choices that a sample has."""
        return zip(*([row[:n] for row, n in zip(z, self.counts(batch), strict=True)] for z in logits), strict=True)

    def counts(self, batch):
        return (batch["attention_mask"].sum(-1) > 1).sum(1)

    def losses(self, z, batch):
        rows = zip(self.of_each(batch, z), batch["labels"], strict=True)
        return torch.stack([-(row[y].exp() / row.exp().sum()).log() for (row,), y in rows])

    def divergences(self, z, z_adv, batch):
        return torch.cat([symmetric_divergence(p[None], q[None], False) for p, q in self.of_each(batch, z, z_adv)])

    def batches(self):
        """A draw for which no gradient is as small as its rounding error, of which Adam would make whole steps."""
        found, generator = [], torch.Generator().manual_seed(3)
        for batch in global_batches(examples=32, seed=6):
            ids, mask = (batch[name].view(8, 4, -1) for name in ("input_ids", "attention_mask"))
            counts = torch.tensor([4, 3, 2, 4, 4, 2, 3, 4])
            for row, n in enumerate(counts):
                ids[row, n:], mask[row, n:] = 1, 0
                mask[row, n:, 0] = 1
            labels = (torch.rand(8, generator=generator) * counts).long()
            found.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
        return found


class SpanQA(OfKind):
    """Texts of which the first tokens are no places for an answer, but that at 0 stands for having none."""

    spec: ClassVar = {"kind": "span_qa", "text": ["question", "context"], "unanswerable": True}

    def model(self, **settings):
        made = built(RobertaForQuestionAnswering, labels=2, problem_type=None, **settings)
        return without_bias(made, "qa_outputs", "roberta.encoder.layer.0.output.LayerNorm")

    def last_layer(self, model):
        return model.qa_outputs

    def logits(self, model, batch, delta=None):
        """(B, L, 2)."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        words = model.get_input_embeddings()(ids)
        positions = torch.cumsum(mask, 1) * mask + model.config.pad_token_id
        words = words if delta is None else words + delta
        found = model(inputs_embeds=words, attention_mask=mask, position_ids=positions)
        return torch.stack([found.start_logits, found.end_logits], -1)

    def losses(self, z, batch):
        total = 0.0
        for side in (0, 1):
            rows = zip(z[..., side], batch["labels"][:, side], batch["attention_mask"].sum(1), strict=True)
            total = total + torch.stack([-(row[:n].softmax(0)[y]).log() for row, y, n in rows])
        return total / 2

    def divergences(self, z, z_adv, batch):
        total = []
        for i, n in enumerate(batch["attention_mask"].sum(1)):
            places = [0, *range(3, n)]
            pairs = ((z[i, places, side], z_adv[i, places, side]) for side in (0, 1))
            total.append(sum(symmetric_divergence(p[None], q[None], False) for p, q in pairs))
        return torch.cat(total)

    def batches(self):
        """Every micro-batch of two has a text as long as any, as the labels are as wide as the inputs."""
        found = global_batches()
        for batch in found:
            ids, mask = batch["input_ids"], batch["attention_mask"]
            length = ids.shape[1]
            mask[::2], ids[::2] = 1, ids[::2].clamp(min=3)
            real = mask.sum(1)
            begins = torch.arange(length).expand(8, length).clone()
            begins[:, :3] = -1
            begins[mask == 0] = -1
            ends = torch.where(begins < 0, -1, begins + 1)
            first = 3 + torch.arange(8) % (real - 3)
            answers = torch.stack([first, torch.minimum(first + 1, real - 1), torch.zeros_like(first)], 1)
            answers[3] = 0  # no answer
            batch["labels"] = torch.cat([answers, begins, ends], 1)
        return found


class Words(OfKind):
    """Texts of five words, each with its first token at a position of its own; the model does not read all words."""

    spec: ClassVar = {"kind": "token_classification", "labels": ["a", "b", "c"]}

    def model(self, **settings):
        return built(RobertaForTokenClassification, labels=3, problem_type=None, **settings)

    def of_words(self, batch, function, *logits):
        """The mean over each sample's words of a function of their logits (C,) and class."""
        rows = []
        for words, *z in zip(batch["labels"].tolist(), *logits, strict=True):
            read = [(position, y) for position, y in words if position >= 0]
            rows.append(sum(function(y, *(each[position] for each in z)) for position, y in read) / len(read))
        return torch.stack(rows)

    def losses(self, z, batch):
        return self.of_words(batch, lambda y, z: -(z[y].exp() / z.exp().sum()).log(), z)

    def divergences(self, z, z_adv, batch):
        return self.of_words(batch, lambda y, p, q: symmetric_divergence(p[None], q[None], False)[0], z, z_adv)

    def batches(self):
        found, generator = global_batches(), torch.Generator().manual_seed(4)
        for batch in found:
            words = torch.full((8, 5, 2), -1)
            words[..., 1] = torch.randint(0, 3, (8, 5), generator=generator)
            for row, length in enumerate(batch["attention_mask"].sum(1)):
                chosen = torch.randperm(int(length), generator=generator)[: 2 + row % 4].sort().values
                words[row, : len(chosen), 0] = chosen
            batch["labels"] = words
        return found


class CausalLM(Writing, OfKind):
    methods = tuple(name for name in EVERY_METHOD if name != "r4f")


TASKS = {task.spec["kind"]: task for task in (Words(), CausalLM(), MultiLabel(), MultipleChoice(), SpanQA())}
