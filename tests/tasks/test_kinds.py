"""Kinds of tasks: their losses, answers and heads, and a new kind that needs no other code."""

import json
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid
from transformers import AutoConfig

from mat_ds.evaluation.attacks.embedding import GradientAttack, robustness_curve
from mat_ds.evaluation.attacks.embedding_balls import Ball
from mat_ds.methods import METHODS
from mat_ds.methods.batch import MicroBatch
from mat_ds.models.build import build_model, build_tokenizer
from mat_ds.models.options import ModelConfig
from mat_ds.tasks import kinds
from mat_ds.tasks.example import Example
from mat_ds.tasks.kinds.base import Kind
from mat_ds.tasks.kinds.outputs import Answered
from mat_ds.tasks.loader import Collator, TrainLoader
from mat_ds.tasks.metrics import score
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.registry import TASKS
from mat_ds.tasks.rows import make_example
from mat_ds.tasks.spec import TaskSpec
from tests.support.kinds import CLASSIFICATION, REGRESSION
from tests.support.plain_engine import PlainEngine

every_task = pytest.mark.parametrize("task", ["cola", "mnli", "stsb"])
CPU = torch.device("cpu")


def batch_of(labels):
    return MicroBatch({}, labels, 0)


def test_the_classification_loss_is_the_mean_negative_log_probability():
    logits, labels = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 1, 1, 0])
    each = [-math.log(math.exp(row[y]) / sum(map(math.exp, row))) for row, y in zip(logits.tolist(), labels, strict=True)]
    torch.testing.assert_close(CLASSIFICATION.losses(logits, batch_of(labels)), torch.tensor(each))
    torch.testing.assert_close(CLASSIFICATION.loss(logits, batch_of(labels)), torch.tensor(sum(each) / 5))


def test_the_regression_loss_is_the_mean_squared_error():
    logits, labels = torch.tensor([[1.0], [4.5], [-1.0]]), torch.tensor([3.0, 4.0, 0.0])
    assert REGRESSION.losses(logits, batch_of(labels)).tolist() == [4.0, 0.25, 1.0]
    assert REGRESSION.loss(logits, batch_of(labels)).item() == 1.75


def test_directions_is_the_number_of_summed_divergences():
    p, q = torch.tensor([[0.2, 0.8]]), torch.tensor([[0.5, 0.5]])
    one_way, other_way = 0.2 * math.log(0.4) + 0.8 * math.log(1.6), 0.5 * math.log(2.5) + 0.5 * math.log(0.625)
    assert CLASSIFICATION.divergence(p.log(), q.log(), batch_of(torch.tensor([0]))).item() == pytest.approx(one_way + other_way)
    assert (CLASSIFICATION.directions, REGRESSION.directions) == (2, 1)
    assert REGRESSION.divergence(torch.tensor([[3.0]]), torch.tensor([[1.0]]), batch_of(torch.zeros(1))).tolist() == [4.0]


@every_task
def test_the_kind_of_a_model_is_recognised_by_its_head(task):
    kind = kinds.kind_of(TASKS[task])
    config = AutoConfig.for_model("roberta", **kind.head())
    assert kinds.kind_of_model(config) is type(kind) and config.num_labels == kind.outputs
    known = type(kind).described_by(config, TASKS[task].text)
    assert (known.labels, known.text, known.kind) == (TASKS[task].labels, TASKS[task].text, TASKS[task].kind)
    assert not list(kinds.kind_of(known).problems())


@every_task
def test_answers_have_the_documented_fields(task):
    kind = kinds.kind_of(TASKS[task])
    low, high = kind.bounds
    labels = [low, high]
    assert [kind.label(kind.gold(label)) for label in labels] == labels and kind.gold(None) is None
    logits = np.array([[-float(i == label) for i in range(kind.outputs)] if kind.outputs > 1 else [-label] for label in labels])
    examples = [Example(("a",), label) for label in labels]
    found = kind.answers(-logits.astype(np.float32), examples)
    assert [answer.get("label", answer.get("score")) for answer in found] == [kind.gold(label) for label in labels]
    answered = kind.answered(-logits.astype(np.float32), examples)
    assert answered.predictions == answered.references == labels
    for answer in found:
        assert answer.keys() == kind.answer_types.keys()
        json.dumps(answer)
        for key, types in kind.answer_types.items():
            if isinstance(types, dict):
                assert answer[key].keys() == types.keys() and sum(answer[key].values()) == pytest.approx(1)
            else:
                assert isinstance(answer[key], {"double": float, "string": str}[types])


def test_an_answer_is_correct_if_it_is_the_label_and_a_score_never_counts_as_correct():
    logits, labels = torch.eye(3), torch.tensor([0, 1, 0])
    assert CLASSIFICATION.right(logits, batch_of(labels)).tolist() == [True, True, False]
    assert REGRESSION.right(torch.ones(3, 1), batch_of(torch.ones(3))) is None


class Several(Kind):
    """A kind with any number of labels per text: bit i of a number says whether label i applies."""

    name, problem_type = "several labels", "multi_label_classification"
    auto_class, pipeline = "AutoModelForSequenceClassification", "text-classification"
    peft_task, peft_heads = "SEQ_CLS", ("classifier", "score")
    metrics, label_dtype, stored_type = ("accuracy",), "int64", "int64"
    distributions, directions = True, 2
    outputs = property(lambda self: len(self.spec.labels))
    output_names = property(lambda self: self.spec.labels)
    bounds = property(lambda self: (0, 2**self.outputs - 1))
    answer_types = property(lambda self: dict.fromkeys(self.spec.labels, "double"))
    range_of_answers = property(lambda self: ("any of", self.spec.labels))

    @classmethod
    def fits(cls, config):
        return config.problem_type == cls.problem_type

    @staticmethod
    def described_by(config, text):
        raise NotImplementedError

    def column_labels(self, names, where):
        return None

    def label(self, value):
        if not set(value) <= set(self.spec.labels):
            raise ValueError("names a label that is none")
        return sum(2 ** self.spec.labels.index(name) for name in value)

    def bits(self, labels):
        return labels.unsqueeze(1) >> torch.arange(self.outputs) & 1  # (B, C)

    def losses(self, logits, batch):
        return binary_cross_entropy_with_logits(logits.float(), self.bits(batch.labels).float(), reduction="none").sum(1)

    def divergence(self, p_logits, q_logits, batch):
        (p, q), z = (x.sigmoid() for x in (p_logits, q_logits)), p_logits - q_logits
        return ((p - q) * z).sum(-1)

    def answered(self, kept, examples):
        predictions = ((kept > 0) * 2 ** np.arange(self.outputs)).sum(1)
        return Answered([example.label for example in examples], predictions.tolist())

    def right(self, logits, batch):
        return ((logits > 0).long() == self.bits(batch.labels)).all(1)

    def answers(self, kept, examples):
        return [dict(zip(self.spec.labels, logsigmoid(torch.tensor(row)).exp().tolist(), strict=True)) for row in kept]

    def gold(self, label):
        return label

    def submitted(self, kept, examples):
        return list(map(str, self.answered(kept, examples).predictions))


class SeveralSpec(TaskSpec):
    kind: str


@pytest.mark.parametrize("name", METHODS)
def test_a_new_kind_works_with_rows_models_loaders_methods_and_scores(name, monkeypatch):
    monkeypatch.setattr(kinds, "KINDS", {Several.name: Several, **kinds.KINDS})
    spec = SeveralSpec(name="own", kind=Several.name, text=("text",), label="about", labels=("sea", "sky", "sun"))
    rows = [{"text": f"the sea and {i} suns", "about": ["sea", "sun"][: i % 3]} for i in range(8)]
    examples = [make_example(spec, row, labelled=True) for row in rows]
    assert [example.label for example in examples] == [0, 1, 5, 0, 1, 5, 0, 1]
    assert make_example(spec, {"text": "rain", "about": ["rain"]}, labelled=True).reason == "names a label that is none"
    options = ModelConfig(name="tiny-roberta", dropout=0.0)
    tokenizer = build_tokenizer(options, (row["text"] for row in rows))
    model = build_model(options, spec, tokenizer, seed=0).module
    kind = kinds.kind_of(spec)
    assert kinds.kind_of_model(model.config) is Several and model.config.num_labels == 3
    collate = Collator(tokenizer, 32, kind)
    batches = TrainLoader(examples, collate, 8, 4, DataConfig(), 0, 0, 1, CPU).micro_batches(0)
    labels = [batch.labels.tolist() for batch in batches]
    assert [len(row) for row in labels] == [4, 4] and sorted(labels[0] + labels[1]) == [0, 0, 0, 1, 1, 1, 5, 5]
    means = METHODS[name](METHODS[name].Settings(), kind).step(PlainEngine(model), batches)
    logits = model(**batches[0].inputs).logits
    expected = -torch.where(kind.bits(batches[0].labels).bool(), logits.sigmoid(), 1 - logits.sigmoid()).log().sum(1)
    torch.testing.assert_close(kind.losses(logits, batches[0]), expected)
    assert means["loss"].isfinite() and next(model.parameters()).grad is not None
    assert score(spec, np.array([[1.0, -1.0, 1.0], [1.0, 1.0, -1.0]]), [Example(("a",), 5), Example(("b",), 1)]) == {
        "accuracy": 0.5
    }
    mask = batches[0].mask
    curve = robustness_curve(
        lambda delta: logits if delta is None else logits + delta.sum((1, 2)).unsqueeze(1),
        batches[0],
        [torch.zeros(*mask.shape[:2], 4)],
        (0.0, 9.0),
        GradientAttack(Ball("linf"), 1, 1.0),
        kind,
    )
    assert torch.equal(curve.kept[:, 0], logits)
