"""Span QA: answers are characters of the context, whatever the windows that the model reads it in."""

import io
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from transformers import RobertaForQuestionAnswering

from mat_ds.errors import UserError
from mat_ds.methods.batch import MicroBatch
from mat_ds.models.build import build_tokenizer
from mat_ds.models.options import ModelConfig
from mat_ds.models.tiny import tiny_config
from mat_ds.tasks.kinds import kind_of, kind_of_model
from mat_ds.tasks.kinds.spans import BEST, NEVER, answer_in, best_spans
from mat_ds.tasks.rows import make_example
from mat_ds.tasks.spec import TaskSpec
from tests.tasks.test_bad_rows import lines, load, write

SPEC = TaskSpec(
    name="own", kind="span_qa", text=("question", "context"), label="answers", metrics=("squad_em", "squad_f1"), test=(),
    unanswerable=True,
)  # fmt: skip
KIND = kind_of(SPEC)
WORDS = "the key near  cabinets is golden, été 東京 and; so are all those (red) stones by the blue sea".split(" ")
LONG = " ".join(WORDS[i * 7 % len(WORDS)] for i in range(90))
QUESTIONS = [
    ("what is golden?", "the key is golden", [("the key", 0), ("key", 4)]),
    ("where are they?", LONG, [(LONG[20:31].strip(), 20 + len(LONG[20:31]) - len(LONG[20:31].lstrip()))]),
    ("what is last?", LONG, [(LONG[-9:].strip(), len(LONG) - len(LONG[-9:].lstrip()))]),
    ("who is there?", "no one is", []),
]


def row_of(question, context, answers, form="hub"):
    found = {"text": [text for text, _ in answers], "answer_start": [start for _, start in answers]}
    flat = [{"text": text, "answer_start": start} for text, start in answers]
    return {"question": question, "context": context, "answers": {"hub": found, "flat": flat, "csv": json.dumps(flat)}[form]}


EXAMPLES = [make_example(SPEC, row_of(*question), True) for question in QUESTIONS]
LENGTH = 40


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(ModelConfig(), [text for example in EXAMPLES for text in example.texts] * 10)


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    config = tiny_config(tokenizer, KIND.head())
    return RobertaForQuestionAnswering(config).double().eval()


def collated(tokenizer, examples, length=LENGTH, kind=KIND):
    return MicroBatch(*kind.collate(tokenizer, examples, length), 0)


@pytest.mark.parametrize("form", ["hub", "flat", "csv", "published", "parquet"])
def test_schemas_are_read_alike(form, tmp_path):
    if form == "published":
        qas = [{"context": c, "qas": [{"question": q, "id": q, **row_of(q, c, a, "flat")}]} for q, c, a in QUESTIONS]
        name, content = "json", json.dumps({"data": [{"title": "t", "paragraphs": qas}], "version": "v2.0"}).encode()
    elif form == "parquet":
        file = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row_of(*question) for question in QUESTIONS]), file)
        name, content = "parquet", file.getvalue()
    else:
        name, content = "jsonl", lines(*(row_of(*question, form) for question in QUESTIONS))
    for split in ("train", "validation"):
        write(tmp_path, f"own/{split}.{name}", content)
    data = load(SPEC, tmp_path)
    assert [example.texts for example in data.train] == [(q, c) for q, c, _ in QUESTIONS]
    assert [KIND.gold_of(example) for example in data.train] == [[text for text, _ in answers] for *_, answers in QUESTIONS]


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"text": ["key"], "answer_start": [0]}, "the context has 'the' at 0, where the answer is 'key'"),
        ({"text": ["key"], "answer_start": ["4"]}, "not a text with its place"),
        ({"text": ["key"], "answer_start": []}, "neither"),
        ({"text": ["key"], "answer_start": [-13]}, "not a text with its place"),
        ([{"text": " ", "answer_start": 3}], "not a text with its place"),
        ("key", "neither"),
        (None, "neither"),
    ],
)
def test_rows_without_a_place_for_the_answer_are_named(answers, reason):
    row = {"question": "what?", "context": "the key is golden", "answers": answers}
    assert reason in make_example(SPEC, row, True).reason


def test_questions_without_an_answer_are_only_for_tasks_that_have_them():
    strict = SPEC.model_copy(update={"unanswerable": False})
    row = row_of("what?", "the key", [])
    assert make_example(SPEC, row, True).label == () and "write unanswerable: true" in make_example(strict, row, True).reason
    marked = {**row_of("what?", "the key", [("key", 4)]), "is_impossible": True}
    assert make_example(SPEC, marked, True).label == ()
    assert [problem.key for problem in kind_of(strict.model_copy(update={"null_score_diff_threshold": 1.0})).problems()] == [
        "null_score_diff_threshold"
    ]


@pytest.mark.parametrize("doc_stride", [None, 1, 5, 12])
def test_windows_cover_the_context_share_what_is_asked_and_give_its_characters_back(doc_stride, tokenizer):
    kind = kind_of(SPEC.model_copy(update={"doc_stride": doc_stride}))
    parts = kind.parts(tokenizer, EXAMPLES, LENGTH)
    assert [example.texts for example in parts if example.part == 0] == [example.texts for example in EXAMPLES]
    batch = collated(tokenizer, parts, LENGTH, kind)
    assert batch.inputs["input_ids"].shape[1] <= LENGTH
    length, covered, before = batch.inputs["input_ids"].shape[1], {}, {}
    for example, row, ids in zip(parts, batch.labels, batch.inputs["input_ids"], strict=True):
        begins, ends, context = row[3 : 3 + length], row[3 + length :], example.texts[1]
        inside = [i for i in range(length) if begins[i] >= 0]
        for i in inside:  # a token is what it is in the context, but for spaces and what byte-level tokens split
            text = context[begins[i] : ends[i]]
            assert text.strip() in tokenizer.decode(ids[i]) or "�" in tokenizer.decode(ids[i]) or not text.strip()
        covered.setdefault(example.texts, set()).update(c for i in inside for c in range(begins[i], ends[i]))
        if example.part:
            shared = [int(begins[i]) for i in inside if int(begins[i]) in before[example.texts]]
            assert len(set(shared)) <= (kind.spec.doc_stride if doc_stride is not None else LENGTH // 4)
        before[example.texts] = {int(begins[i]) for i in inside}
        assert row[2] == 0 == (ids == tokenizer.cls_token_id).nonzero()[0]
    for (_, context), characters in covered.items():
        assert {i for i, c in enumerate(context) if not c.isspace()} <= characters
    answered = [row for example, row in zip(parts, batch.labels, strict=True) if example.label]
    told = [(e, row[:2].tolist()) for e, row in zip(parts, batch.labels, strict=True) if row[:2].any()]
    assert answered and {example.texts for example, _ in told} == {example.texts for example in EXAMPLES if example.label}
    for example, (start, end) in told:
        row = batch.labels[parts.index(example)]
        begin, stop = int(row[3 + start]), int(row[3 + length + end])
        right, text = KIND.gold_of(example)[0], example.texts[1][begin:stop]
        assert right in text and len(text.strip()) <= len(right) + 8  # a token may be longer than the answer's end


def test_windows_that_would_not_advance_and_slow_tokenizers_are_refused(tokenizer):
    kind = kind_of(SPEC.model_copy(update={"doc_stride": 16}))
    with pytest.raises(UserError, match="doc_stride"):
        kind.parts(tokenizer, EXAMPLES, 36)

    class SlowTokenizer:
        is_fast, name_or_path = False, "slow"

    with pytest.raises(UserError, match="SlowTokenizer"):
        KIND.parts(SlowTokenizer(), EXAMPLES, LENGTH)


def test_long_questions_leave_room_for_the_context(tokenizer):
    example = make_example(SPEC, row_of(LONG, LONG, [(LONG[:7], 0)]), True)
    parts = KIND.parts(tokenizer, [example], LENGTH)
    batch = collated(tokenizer, parts)
    inside = (batch.labels[:, 3 : 3 + batch.inputs["input_ids"].shape[1]] >= 0).sum(1)
    assert len(parts) > 1 and (inside[:-1] >= LENGTH // 2 - 4).all()


def test_the_loss_is_that_of_transformers_and_padding_changes_nothing(tokenizer, model):
    parts = KIND.parts(tokenizer, EXAMPLES, LENGTH)
    whole = collated(tokenizer, parts)
    logits = KIND.read(model(**whole.inputs), whole.inputs)
    losses, other = KIND.losses(logits, whole), KIND.read(model(**whole.inputs), whole.inputs) * 1.7
    r, kept = KIND.divergence(logits, other, whole), KIND.kept(logits, whole)
    padded = 0
    for i, part in enumerate(parts):
        own = collated(tokenizer, [part])
        start, end = own.labels[:, :2].unbind(1)
        expected = model(**own.inputs, start_positions=start, end_positions=end)
        torch.testing.assert_close(losses[i].double(), expected.loss, rtol=1e-6, atol=1e-6)
        z = torch.stack([expected.start_logits[0], expected.end_logits[0]])
        places = [0, *(j for j in range(z.shape[1]) if own.labels[0, 3 + j] >= 0)]
        p, q = z[:, places].softmax(1), (z[:, places] * 1.7).softmax(1)
        torch.testing.assert_close(r[i].double(), ((p - q) * (p.log() - q.log())).sum(), rtol=1e-4, atol=1e-6)
        again = KIND.kept(KIND.read(expected, own.inputs), own)[0]
        torch.testing.assert_close(again[:, 0], kept[i, :, 0], rtol=1e-4, atol=1e-5)
        assert torch.equal(again[1], kept[i, 1])
        padded += own.inputs["input_ids"].shape[1] < whole.inputs["input_ids"].shape[1]
    assert padded


def by_search(z, begins, ends, null, longest):
    """(score of no answer, spans best first) by looking at every pair of tokens."""
    found = []
    for i in range(len(begins)):
        for j in range(i, min(i + longest, len(begins))):
            if begins[i] >= 0 and begins[j] >= 0:
                found.append((float(z[i, 0] + z[j, 1]), int(begins[i]), int(ends[j])))
    return float(z[null].sum()), sorted(found, reverse=True)


@pytest.mark.parametrize("longest", [1, 3, 30])
def test_the_best_spans_are_those_of_an_exhaustive_search(longest):
    generator = torch.Generator().manual_seed(0)
    length = 14
    z = torch.randn(6, length, 2, generator=generator)
    begins = torch.arange(length).repeat(6, 1) * 2
    ends = begins + 2
    for row, n in enumerate((14, 9, 3, 2, 7, 14)):
        begins[row, :2], begins[row, n:] = -1, -1
    ends[begins < 0] = -1
    places = torch.cat([torch.zeros(6, 3, dtype=torch.long), begins, ends], 1)
    found = best_spans(z, places, longest)
    assert found.shape == (6, 1 + BEST, 3)
    for row in range(6):
        null, spans = by_search(z[row], begins[row], ends[row], 0, longest)
        assert float(found[row, 0, 0]) == pytest.approx(null, abs=1e-5)
        real = [tuple(span) for span in found[row, 1:].tolist() if span[0] > NEVER]
        assert len(real) == min(BEST, len(spans))
        assert [span[1:] for span in real] == [span[1:] for span in spans[: len(real)]]
        assert [span[0] for span in real] == pytest.approx([span[0] for span in spans[: len(real)]], abs=1e-5)


def kept_of(null, *spans):
    rows = [(null, 0, 0), *spans, *[(NEVER, 0, 0)] * (BEST - len(spans))]
    return np.array(rows, dtype=np.float32)


def test_windows_of_a_question_are_put_together():
    texts, others = ("q", "the key is golden"), ("r", "no one is")
    parts = [EXAMPLES[0].__class__(t, ((0, 7) if t == texts else ()), part=k) for t, k in ((texts, 0), (texts, 1), (others, 0))]
    kept = np.stack([kept_of(3.0, (1.0, 0, 7), (0.5, 4, 7)), kept_of(0.5, (2.0, 11, 17)), kept_of(2.0, (1.0, 0, 2))])
    whole, examples = KIND.wholes(kept, parts)
    assert [example.texts for example in examples] == [texts, others]
    first, second = KIND.answers(whole, examples)
    assert (first["answer"], first["start"], first["end"]) == ("golden", 11, 17)
    shares = np.exp([2.0, 1.0, 0.5, 0.5])  # three spans, and no answer, whose lowest score counts
    assert first["score"] == pytest.approx(shares[0] / shares.sum())
    assert (second["answer"], second["start"], second["end"]) == ("", 0, 0)
    assert KIND.answered(whole, examples).references == [["the key"], [""]]
    patient = kind_of(SPEC.model_copy(update={"null_score_diff_threshold": 1.5}))
    assert patient.answers(whole, examples)[1]["answer"] == "no"
    sure = kind_of(SPEC.model_copy(update={"unanswerable": False})).answers(whole, examples)
    assert sure[1]["answer"] == "no" and sure[1]["score"] == 1.0


def test_answers_have_no_spaces_around_them():
    found = answer_in(kept_of(0.0, (1.0, 3, 9)), "the key  is", None)
    assert (found["answer"], found["start"], found["end"], found["score"]) == ("key", 4, 7, 1.0)
    assert answer_in(kept_of(0.0, (1.0, 3, 4)), "the key", None) == {"answer": "", "start": 0, "end": 0, "score": 1.0}


def test_models_are_known_by_their_head(model):
    assert kind_of_model(model.config) is type(KIND) and model.config.num_labels == 2
    described = type(KIND).described_by(model.config, ("text",))
    assert described.text == ("question", "context") and not list(kind_of(described).problems())
