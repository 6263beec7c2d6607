"""Multiple choice: published schemas are read alike, and a choice that a question lacks changes nothing."""

import io
import json

import pyarrow
import pyarrow.parquet
import pytest
import torch
from transformers import RobertaForMultipleChoice

from mat_ds.errors import UserError
from mat_ds.methods import METHODS
from mat_ds.methods.batch import MicroBatch
from mat_ds.models.build import build_tokenizer
from mat_ds.models.options import ModelConfig
from mat_ds.models.tiny import tiny_config
from mat_ds.tasks.example import Example
from mat_ds.tasks.kinds import kind_of, kind_of_model
from mat_ds.tasks.rows import make_example
from mat_ds.tasks.spec import TaskSpec
from mat_ds.tasks.stored import store_examples, stored_examples
from mat_ds.tasks.written import read_spec
from tests.support.plain_engine import PlainEngine
from tests.tasks.test_bad_rows import lines, load, write

SPEC = TaskSpec(name="own", kind="multiple_choice", text=("question",), test=())
KIND = kind_of(SPEC)
QUESTIONS = [
    ("where is the key", ("in the sea", "on the table", "under a red stone"), 1),
    ("who sings", ("the birds", "no one at all here", "a stone", "the red sea today", "keys"), 4),
    ("what is golden", ("a key", "the sun"), 0),
]
EXAMPLES = [make_example(SPEC, {"question": q, "choices": c, "label": y}, True) for q, c, y in QUESTIONS]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(ModelConfig(), [text for example in EXAMPLES for text in example.texts] * 30)


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    config = tiny_config(tokenizer, KIND.head())
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    return RobertaForMultipleChoice(config).double().eval()


def collated(tokenizer, examples, index=0):
    return MicroBatch(*KIND.collate(tokenizer, examples, 64), index)


def published(form):
    for i, (question, choices, label) in enumerate(QUESTIONS):
        names = "12345" if i == 1 else "ABCDE"  # ARC has both
        hub = {"text": list(choices), "label": list(names[: len(choices)])}
        yield {
            "arc": {"id": f"q{i}", "question": question, "choices": hub, "answerKey": names[label]},
            "letter": {"question": question, "choices": list(choices), "answerKey": "ABCDE"[label]},
            "number": {"question": question, "choices": list(choices), "answerKey": label},
            "csv": {"question": question, "choices": json.dumps(choices), "answerKey": str(label)},
        }[form]


@pytest.mark.parametrize("form", ["arc", "letter", "number", "csv"])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_schemas_are_read_alike(form, suffix, tmp_path):
    rows = list(published(form))
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    content = file.getvalue() if suffix == "parquet" else lines(*rows)
    for split in ("train", "validation"):
        write(tmp_path, f"own/{split}.{suffix}", content)
    data = load(SPEC.model_copy(update={"label": "answerKey"}), tmp_path)
    assert [(example.texts, example.label) for example in data.train] == [((q, *c), y) for q, c, y in QUESTIONS]


def test_choices_may_have_a_column_each():
    spec = SPEC.model_copy(update={"choices": ("ending0", "ending1"), "text": ("sent1", "sent2")})
    row = {"sent1": "it rains", "sent2": "they", "ending0": "run", "ending1": "sing", "label": 1}
    assert make_example(spec, row, True).texts == ("it rains", "they", "run", "sing")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"choices": "in the sea"}, "choices is not a list"),
        ({"choices": ["only one"]}, "1 choices, not 2 to 26"),
        ({"choices": ["a", 3]}, "a choice in choices is not a text"),
        ({"choices": ["a", " "]}, "a choice in choices is blank"),
        ({"question": " "}, "question is blank"),
        ({"label": 3}, "none of the 3 choices: 0 to 2, or A to C"),
        ({"label": "D"}, "none of the 3 choices"),
        ({"label": "right"}, "neither the number of a choice"),
        ({"choices": {"text": ["a", "b"], "label": ["A", "A"]}}, "not one for each"),
        ({"choices": {"text": ["a", "b"], "label": ["1", "2"]}, "label": "A"}, "none of the choices' 1, 2"),
    ],
)
def test_rows_that_are_no_question_are_named(change, reason):
    question, choices, label = QUESTIONS[0]
    assert reason in make_example(SPEC, {"question": question, "choices": list(choices), "label": label, **change}, True).reason


def test_keys_of_other_kinds_are_refused_and_its_own_are_refused_elsewhere():
    keys = {"labels": ["a", "b"], "doc_stride": 3, "range": [0, 1]}
    spec = read_spec({"name": "own", "kind": "multiple_choice", "text": "question", **keys}, "own.yaml")
    assert {problem.key for problem in kind_of(spec).problems()} == set(keys)
    other = TaskSpec(name="other", text=("text",), labels=("a", "b"), choices=("choices",))
    assert "is for multiple_choice tasks" in next(kind_of(other).problems()).reason
    with pytest.raises(UserError, match="choices"):
        read_spec({"name": "own", "kind": "multiple_choice", "text": "question", "choices": 3}, "own.yaml")


def test_models_are_known_by_their_head(model):
    assert kind_of_model(model.config) is type(KIND) and KIND.width(model.config) == 1
    assert type(KIND).described_by(model.config, ("text",)).kind == "multiple_choice"
    assert not list(kind_of(type(KIND).described_by(model.config, ("text",))).problems())


def alone(tokenizer, model):
    """(loss, gradients) of the mean over the questions, each passed by itself, without any missing choice."""
    losses = []
    for example in EXAMPLES:
        batch = collated(tokenizer, [example])
        assert batch.there.all()
        z = model(**batch.inputs).logits[0].double()
        losses.append(-(z[example.label].exp() / z.exp().sum()).log())
    loss = torch.stack(losses)
    return loss, torch.autograd.grad(loss.mean(), [p for p in model.parameters() if p.requires_grad], allow_unused=True)


def test_missing_choices_leave_losses_and_gradients_as_without_them(tokenizer, model):
    batch = collated(tokenizer, EXAMPLES)
    assert batch.inputs["input_ids"].shape[:2] == (3, 5) and batch.there.view(3, 5).sum(1).tolist() == [3, 5, 2]
    expected, gradients = alone(tokenizer, model)
    logits = KIND.read(model(**batch.inputs), batch.inputs)
    losses = KIND.losses(logits.double(), batch)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-6, atol=1e-7)
    found = torch.autograd.grad(losses.mean(), [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    for own, other in zip(found, gradients, strict=True):
        assert (own is None) == (other is None)
        if own is not None:
            torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("logit", [-1e3, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_missing_choices_cannot_win_and_have_no_part_in_the_loss(logit, dtype, tokenizer):
    batch, z = collated(tokenizer, EXAMPLES), torch.full((3, 5), logit)
    z[:, :3] = torch.tensor([[-500.0, -510.0, -505.0]] * 3)
    missing = ~batch.there.view(3, 5)
    z[missing] = 1e4  # whatever the model says of it
    z = z.to(dtype).requires_grad_()
    read = KIND.read(type("Output", (), {"logits": z}), batch.inputs)
    assert not missing.gather(1, read.argmax(1, keepdim=True)).any()
    other = KIND.read(type("Output", (), {"logits": (z.detach() + 7).requires_grad_()}), batch.inputs)
    (KIND.losses(read, batch).sum() + KIND.divergence(read, other, batch).sum()).backward()
    assert z.grad.isfinite().all() and not z.grad[missing].any()
    for row, n in enumerate((3, 5, 2)):
        some = MicroBatch({}, batch.labels[row : row + 1], 0)
        assert torch.equal(KIND.losses(read[row : row + 1, :n], some), KIND.losses(read, batch)[row : row + 1])
    answers = KIND.answers(read.detach().float().numpy(), EXAMPLES)
    assert [len(answer["probabilities"]) for answer in answers] == [3, 5, 2]


SETTINGS = {"delta_lr": 5e-2, "delta_max_norm": 4e-2}
PERTURBING = [name for name, method in METHODS.items() if method.perturbs()]


@pytest.mark.parametrize("name", PERTURBING)
def test_a_perturbation_depends_on_its_choice_only_and_missing_ones_have_none(name, tokenizer, model):
    fields = METHODS[name].Settings.model_fields
    player = METHODS[name](METHODS[name].Settings(**{key: value for key, value in SETTINGS.items() if key in fields}), KIND)
    whole = collated(tokenizer, EXAMPLES)
    delta = player.adversary(PlainEngine(model, read=KIND.read), whole)
    assert delta.isfinite().all() and not delta[~whole.there].any() and (delta[whole.there] != 0).any(-1).any(-1).all()
    for i, example in enumerate(EXAMPLES):
        batch = collated(tokenizer, [example], index=i)
        own = player.adversary(PlainEngine(model, read=KIND.read), batch)
        for c, row in enumerate(own):
            real = batch.mask[c, :, 0].bool()
            torch.testing.assert_close(delta[5 * i + c][: len(real)][real], row[real], rtol=1e-3, atol=1e-5)


def test_answers_name_letter_and_text(tokenizer):
    kept = torch.tensor([[0.0, 1.0, 0.5, 9.0, 9.0], [0.0, 0.0, 0.0, 0.0, 2.0], [1.0, 0.0, 9.0, 9.0, 9.0]]).numpy()
    found = KIND.answers(kept, EXAMPLES)
    assert [(answer["label"], answer["choice"]) for answer in found] == [("B", "on the table"), ("E", "keys"), ("A", "a key")]
    assert all(sum(answer["probabilities"]) == pytest.approx(1) for answer in found)
    assert KIND.submitted(kept, EXAMPLES) == ["B", "E", "A"] == [KIND.gold_of(example) for example in EXAMPLES]
    answered = KIND.answered(kept, EXAMPLES)
    assert answered.predictions == answered.references == [1, 4, 0]
    assert found[0].keys() == KIND.answer_types.keys()


@pytest.mark.parametrize(
    ("texts", "label", "fault"),
    [
        (("q", "a", "b"), 1, ""),
        (("q", "a", "b"), 2, "choices that are not there"),
        (("q", "a", "b"), -1, "outside"),
        (("q", "a"), 0, "too few choices"),
        (("q", *"abcdefghijklmnopqrstuvwxyzz"), 0, "too many"),
    ],
)
def test_prepared_labels_number_choices_that_are_there(texts, label, fault, tokenizer, tmp_path):
    store_examples(tmp_path / "data", [Example(texts, label)], tokenizer, 64, SPEC)
    try:
        (found,) = stored_examples([tmp_path / "data"], None, True, SPEC)
        assert not fault and (found.texts, found.label) == (texts, label)
    except UserError as error:
        assert fault and fault in str(error)
