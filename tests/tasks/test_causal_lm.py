"""Causal language models: which tokens are trained on, what is perturbed, and what the scores mean."""

import math

import numpy as np
import pytest
import torch

from mat_ds.errors import UserError
from mat_ds.evaluation.generation import end_tokens, generate
from mat_ds.methods.batch import MicroBatch
from mat_ds.models.build import build_model, build_tokenizer
from mat_ds.models.options import ModelConfig
from mat_ds.models.perturb import EmbeddingPerturbation
from mat_ds.tasks.example import BadRow, Example
from mat_ds.tasks.kinds import kind_of, kind_of_model
from mat_ds.tasks.loader import Collator
from mat_ds.tasks.metrics import score
from mat_ds.tasks.rows import make_example
from mat_ds.tasks.spec import TaskSpec
from mat_ds.tasks.written import read_spec
from tests.support.decoders import DECODERS, MARKED, TEMPLATE, character_tokenizer, decoder

SUMS = TaskSpec(name="sums", kind="causal_lm", text=("prompt",), label="response", metrics=("perplexity", "exact_match"))
CHATS = TaskSpec(name="chats", kind="causal_lm", messages="messages", metrics=("perplexity",))
ROWS = [
    {"prompt": prompt, "response": response} for prompt, response in (("1+1=", "2"), ("say hi 3x: ", "hihihi"), ("a", "bc"))
]
CHAT = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yo"},
    {"role": "user", "content": "bye"},
    {"role": "assistant", "content": "ok!"},
]
CPU = torch.device("cpu")


def examples(spec=SUMS, rows=ROWS, labelled=True):
    return [make_example(spec, row, labelled) for row in rows]


def batch_of(tokenizer, spec=SUMS, rows=ROWS, length=64):
    return MicroBatch(*Collator(tokenizer, length, kind_of(spec))(examples(spec, rows), CPU), 0)


def trained_text(tokenizer, batch, row):
    return tokenizer.decode([token for _, token in batch.labels[row].tolist() if token != -100])


def test_the_response_and_its_end_are_trained_on_and_nothing_else():
    tokenizer = character_tokenizer()
    batch = batch_of(tokenizer)
    for row, texts in enumerate(ROWS):
        ids = [
            token
            for token, real in zip(*(batch.inputs[k][row].tolist() for k in ("input_ids", "attention_mask")), strict=True)
            if real
        ]
        assert tokenizer.decode(ids) == f"{texts['prompt']}{texts['response']}</s>"
        assert trained_text(tokenizer, batch, row) == f"{texts['response']}</s>"
        for place, token in batch.labels[row].tolist():
            assert token == -100 or batch.inputs["input_ids"][row, place + 1] == token
    assert batch.inputs["input_ids"][0, -1] == tokenizer.pad_token_id  # on the right


def test_a_begin_token_is_what_the_tokenizer_puts_before_every_text():
    tokenizer = build_tokenizer(ModelConfig(), ["1+1="] * 20)
    first, last = (kind_of(SUMS).encode(tokenizer, examples(), 64)["input_ids"][0][place] for place in (0, -1))
    assert (first, last) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


@pytest.mark.parametrize("length, read, trained", [(12, " 3x: hihihi</s>", "hihihi</s>"), (5, " hihi", "hihi"), (2, " h", "h")])
def test_a_sample_that_is_too_long_loses_the_beginning_of_its_prompt_and_then_the_end_of_its_response(length, read, trained):
    tokenizer = character_tokenizer()
    batch = batch_of(tokenizer, rows=ROWS[1:2], length=length)
    assert batch.inputs["input_ids"].shape[1] == length
    assert tokenizer.decode(batch.inputs["input_ids"][0].tolist()) == read and trained_text(tokenizer, batch, 0) == trained


@pytest.mark.parametrize("template", [TEMPLATE, MARKED], ids=["prefixes", "marks"])
def test_of_a_chat_the_assistants_messages_are_trained_on_each_with_its_end(template):
    tokenizer = character_tokenizer(template)
    (example,) = examples(CHATS, [{"messages": CHAT}])
    assert (example.texts, example.label) == (("be kind", "hi", "yo", "bye"), "ok!")
    long = character_tokenizer(template)
    batch = batch_of(long, CHATS, [{"messages": CHAT}], length=200)
    assert trained_text(tokenizer, batch, 0) == "yo<|im_end|>ok!<|im_end|>"
    whole = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert tokenizer.decode(batch.inputs["input_ids"][0].tolist()) == whole.rstrip("\n")
    asked = kind_of(CHATS).encode(tokenizer, [Example(example.texts, None)], 200)["input_ids"][0]
    assert tokenizer.decode(asked) == tokenizer.apply_chat_template(CHAT[:-1], tokenize=False, add_generation_prompt=True)


def test_a_template_that_rewrites_earlier_turns_is_refused_unless_it_marks_the_assistants():
    forgetful = TEMPLATE.replace("m['content']", "(m['content'] if loop.last else 'gone')")
    (example,) = examples(CHATS, [{"messages": CHAT}])
    with pytest.raises(UserError, match="once there are later ones"):
        kind_of(CHATS).encode(character_tokenizer(forgetful), [example], 64)


def lacking(spec, **special):
    return [problem.reason for problem in kind_of(spec).tokenizer_problems("model.name", "m", character_tokenizer(**special))]


def test_what_a_tokenizer_lacks_is_named():
    assert not lacking(SUMS) and not lacking(CHATS, chat_template=TEMPLATE)
    assert "has no chat template" in lacking(CHATS)[0] and "no end token" in lacking(SUMS, eos_token=None)[0]


@pytest.mark.parametrize("value, told", [
    ([{"role": "assistant", "content": "a"}], "message 1 of messages is not of the user"),
    ([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], "message 2 of messages is not of the assistant"),
    ([{"role": "tool", "content": "a"}], "user and assistant in turn"), ([{"role": "user", "content": 3}], "is not a text"),
    ([{"role": "user", "content": " "}], "is blank"), ([], "has no message of a user"), (7, "not a list of messages"),
    (CHAT[:-1], "does not end with a message of the assistant"), ("hi", "does not end with a message of the assistant"),
])  # fmt: skip
def test_what_is_no_chat_to_train_on_is_a_bad_row(value, told):
    (found,) = examples(CHATS, [{"messages": value}])
    assert isinstance(found, BadRow) and told in found.reason


def test_to_be_answered_a_chat_may_end_with_the_user_or_be_a_text_or_json():
    import json

    for value in (CHAT, CHAT[:-1], json.dumps(CHAT)):
        (found,) = examples(CHATS, [{"messages": value}], labelled=False)
        assert found == Example(("be kind", "hi", "yo", "bye"), None)
    (found,) = examples(CHATS, [{"messages": "hi"}], labelled=False)
    assert found.texts == ("", "hi")


def test_keys_of_other_kinds_and_two_columns_are_refused_and_messages_stand_alone():
    for keys in ({"labels": ["a", "b"]}, {"range": [0, 1]}, {"text": ["a", "b"]}, {"submission": {"test": "a.tsv"}}):
        spec = TaskSpec.model_validate({**SUMS.model_dump(exclude={"generate"}), **keys})
        assert next(iter(keys)) in [problem.key for problem in kind_of(spec).problems()]
    assert not list(kind_of(SUMS).problems()) or all(p.key == "metrics" for p in kind_of(SUMS).problems())
    with pytest.raises(UserError, match="leave one out"):
        read_spec({"name": "a", "kind": "causal_lm", "messages": "messages", "text": ["prompt"]}, "a.yaml")
    again = TaskSpec.model_validate(CHATS.model_dump(mode="json"))
    assert again == CHATS


def test_loss_divergence_and_what_is_kept_are_those_of_each_response_token():
    tokenizer = character_tokenizer()
    model, kind, batch = decoder("llama", tokenizer).double().eval(), kind_of(SUMS), batch_of(tokenizer)
    with torch.no_grad():
        p = model(**batch.inputs).logits
        q = model(**{**batch.inputs, "input_ids": batch.inputs["input_ids"].roll(1, 0)}).logits
    losses, divergences, kept = [], [], []
    for row, texts in enumerate(ROWS):
        first, count = len(texts["prompt"]), len(texts["response"]) + 1
        tokens = batch.inputs["input_ids"][row, first : first + count].tolist()
        log_p, log_q = (z[row, first - 1 : first - 1 + count].log_softmax(-1) for z in (p, q))
        chosen = [log_p[t, token].item() for t, token in enumerate(tokens)]
        losses.append(-sum(chosen) / count)
        divergences.append(((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum().item() / count)
        kept.append([sum(chosen), count, sum(int(log_p[t].argmax() == token) for t, token in enumerate(tokens))])
    assert kind.losses(p, batch).tolist() == pytest.approx(losses, rel=1e-5)
    assert kind.divergence(p, q, batch).tolist() == pytest.approx(divergences, rel=1e-5)
    found = kind.kept(p, batch).numpy()
    np.testing.assert_allclose(found, kept, rtol=1e-5)
    scores = score(SUMS, found, examples())
    assert scores["perplexity"] == pytest.approx(math.exp(-sum(k[0] for k in kept) / sum(k[1] for k in kept)), rel=1e-5)
    loss = torch.nn.functional.cross_entropy  # transformers' own head masks with -100 and means over all tokens of the batch
    masked = torch.full_like(batch.inputs["input_ids"], -100)
    for row, labels in enumerate(batch.labels.tolist()):
        for place, token in labels:
            masked[row, place + 1] = token if token != -100 else masked[row, place + 1]
    theirs = loss(p[:, :-1].flatten(0, 1), masked[:, 1:].flatten(), ignore_index=-100)
    assert math.log(scores["perplexity"]) == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize("family", DECODERS)
def test_a_match_is_exact_where_generation_writes_the_response(family):
    """Half of the responses are what the model itself writes, so that some match and some do not."""
    tokenizer, kind = character_tokenizer(), kind_of(SUMS)
    model = decoder(family, tokenizer).eval()
    prompts = ["1+1=", "hello, ", "a", "what is 7*8? it is ", "z=2: "]
    asked = kind.encode(tokenizer, [Example((prompt,), None) for prompt in prompts], 32)["input_ids"]
    ends = end_tokens(model, tokenizer)
    written = generate(model, tokenizer, asked, 6, ends)
    alone = [generate(model, tokenizer, [prompt], 6, ends)[0] for prompt in asked]
    assert written == alone  # padding on the left changes nothing
    with torch.no_grad():
        plain = model.generate(torch.tensor([asked[1]]), max_new_tokens=6, do_sample=False, pad_token_id=0)[0, len(asked[1]) :]
    assert [token for token in plain.tolist() if token not in ends] == written[1]
    for wrong in (False, True):
        ids = [[*prompt, *new] for prompt, new in zip(asked, written, strict=True)]
        if wrong:
            for row in ids:
                row[-1] = (row[-1] + 1) % len(tokenizer)
        longest, most = max(map(len, ids)), max(map(len, written))
        inputs = tokenizer.pad([{"input_ids": row} for row in ids], return_tensors="pt")
        labels = torch.full((len(ids), most, 2), -100)
        labels[..., 0] = 0
        for row, new, place in zip(ids, written, labels, strict=True):
            for t in range(len(new)):
                place[t] = torch.tensor([len(row) - len(new) - 1 + t, row[len(row) - len(new) + t]])
        with torch.no_grad():
            right = kind.right(model(**inputs).logits, MicroBatch(dict(inputs), labels, 0))
        assert inputs["input_ids"].shape[1] == longest and right.tolist() == [not wrong or not new for new in written]


@pytest.mark.parametrize("family", [*DECODERS, "tiny-roberta"])
def test_no_logit_depends_on_a_later_token(family):
    if family == "tiny-roberta":  # an encoder, which is told that it is a decoder
        tokenizer = build_tokenizer(ModelConfig(), ["1+1="] * 20)
        model = build_model(ModelConfig(dropout=0.0), SUMS, tokenizer, seed=0).module.eval()
        assert kind_of_model(model.config).name == "causal_lm"
    else:
        tokenizer = character_tokenizer()
        model = decoder(family, tokenizer).eval()
    ids = torch.randint(6, 40, (1, 9), generator=torch.Generator().manual_seed(0))
    other = ids.clone()
    other[0, -1] += 1
    with torch.no_grad():
        one, two = (model(input_ids=x, attention_mask=torch.ones_like(x)).logits for x in (ids, other))
    torch.testing.assert_close(one[:, :-1], two[:, :-1])
    assert not torch.allclose(one[:, -1], two[:, -1])


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "gemma"])
def test_a_head_that_shares_the_embeddings_is_not_perturbed(family):
    tokenizer = character_tokenizer()
    model, batch = decoder(family, tokenizer).eval(), batch_of(tokenizer)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    words = model.get_input_embeddings()
    delta = 0.1 * torch.randn(*batch.inputs["input_ids"].shape, words.embedding_dim, generator=torch.Generator().manual_seed(0))
    hook = EmbeddingPerturbation(model)
    with torch.no_grad():
        with hook.applied(delta):
            found = model(**batch.inputs).logits
        x = words.weight[batch.inputs["input_ids"]]
        if family == "gemma":  # which scales inside of its embedding's module or after it
            x = words(batch.inputs["input_ids"])
        expected = model(inputs_embeds=x + delta, attention_mask=batch.inputs["attention_mask"]).logits
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, model(**batch.inputs).logits)
