"""Causal language models: supervised fine-tuning on the response to each prompt, or on the assistant's part of each chat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mat_ds.errors import Problem
from mat_ds.methods.ops import symmetric_kl
from mat_ds.tasks.chats import pieces_of, prompt_of, template_problems, turns_of
from mat_ds.tasks.example import BadRow, Example, Label, text_fault
from mat_ds.tasks.kinds.base import Kind
from mat_ds.tasks.kinds.outputs import Answered
from mat_ds.tasks.responses import NONE, Tokens, begin_of, fitted, tokenised
from mat_ds.tasks.spec import TaskSpec

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from mat_ds.methods.batch import MicroBatch


class CausalLM(Kind):
    """For a prompt x and a response y of T tokens, whose embeddings are perturbed by delta,

        L = -(1/T) sum over t of log p(y_t | x + delta, y_<t + delta),   R = (1/T) sum over t of sKL(p_t, q_t),

    where p_t and q_t are the clean and the perturbed distribution of y_t. All that the model reads is perturbed, the tokens of
    the response before y_t too; what it is to write is not, also where the head shares the table of the embeddings. Means are
    per sample, then over samples.

    In shapes, T is the number of response tokens of the longest response in the batch, and V the size of the vocabulary.
    Labels are (B, T, 2): the position of the logits that predict a token, and the token. Only these logits are computed with
    in fp32.
    """

    name = "causal_lm"
    auto_class = "AutoModelForCausalLM"
    problem_type = None
    pipeline = "text-generation"
    peft_task = "CAUSAL_LM"
    peft_heads = ()
    metrics = ("perplexity", "exact_match")
    usual_metrics = ("perplexity",)
    label_dtype = "int64"
    stored_type = "string"
    distributions = True
    directions = 2
    outputs = 0
    output_names = ()
    generates = True
    server = "text_generator"

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from self.without_labels(f"a {self.name} task has none: it writes text", "submission")
        if len(self.spec.text) == 2:
            yield Problem("text", self.spec.text, "are two columns, but a prompt is one", "name the column of the prompt")

    @classmethod
    def fits(cls, config: Any) -> bool:
        names = config.architectures or ()
        return config.problem_type is None and any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)

    @staticmethod
    def described_by(config: Any, text: tuple[str, ...]) -> TaskSpec:
        return TaskSpec(name="model", kind="causal_lm", text=text, metrics=("perplexity",))

    def width(self, config: Any) -> int:
        return 0

    def logits_shape(self, inputs: Sequence[int]) -> tuple[int, ...]:
        return *inputs, 2  # of two words: for passes that are only counted

    def blank_targets(self, inputs: Sequence[int]) -> Tensor:
        """Every token of an input is taken for a response's."""
        from torch import int64, zeros

        return zeros(*inputs, 2, dtype=int64)

    def head(self) -> dict[str, Any]:
        # An encoder (BERT, RoBERTa) reads later tokens too, unless it is told that it is a decoder.
        return {"architectures": [self.auto_class], "problem_type": None, "is_decoder": True}

    def texts(self, row: Mapping[str, Any]) -> tuple[str, ...] | BadRow:
        """The prompt; of a chat, the turns before its last answer."""
        if not self.spec.messages:
            return super().texts(row)
        turns = turns_of(row.get(self.spec.messages), self.spec.messages)
        return turns if isinstance(turns, BadRow) or len(turns) % 2 == 0 else turns[:-1]

    def label(self, value: Any) -> Label:
        """The response; of a chat, its last answer."""
        if self.spec.messages:
            turns = turns_of(value, self.spec.messages)
            if isinstance(turns, BadRow):
                raise ValueError(turns.reason)
            if len(turns) % 2 == 0:
                raise ValueError("the chat does not end with a message of the assistant")
            return turns[-1]
        if fault := text_fault("the response", value):
            raise ValueError(fault.reason)
        if not value.strip():
            raise ValueError("the response is blank")
        return str(value)

    def column_labels(self, names: list[str], where: str) -> list[str] | None:
        return names

    @property
    def bounds(self) -> tuple[float, float]:
        raise NotImplementedError("a response has no bounds")

    @property
    def list_columns(self) -> tuple[str, ...]:
        return (self.spec.messages,) if self.spec.messages else ()

    @property
    def mapped_columns(self) -> tuple[str, ...]:
        return self.list_columns

    @property
    def texts_per_example(self) -> int | None:
        return None if self.spec.messages else 1

    @property
    def noised_texts(self) -> int | None:
        return 2 if self.spec.messages else None  # the system's and the user's first: later turns are answers too

    @property
    def own_inputs(self) -> tuple[str, ...]:
        return ("marks",)

    def tokenizer_problems(self, key: str, name: str, tokenizer: Any) -> Iterator[Problem]:
        if tokenizer.eos_token_id is None:
            reason = "its tokenizer has no end token, with which a response ends"
            yield Problem(key, name, reason, "set tokenizer.eos_token and save it again")
        if self.spec.messages:
            yield from template_problems(key, name, tokenizer)

    def encode(self, tokenizer: Any, examples: Sequence[Example], max_length: int, **form: Any) -> dict[str, list[list[int]]]:
        """The tokens of each example, and which are the response's; `fitted` says what those too long lose."""
        every = [fitted(self._tokens(tokenizer, example), max_length) for example in examples]
        return {"input_ids": [tokens.ids for tokens in every], "marks": [tokens.marks for tokens in every]}

    def _tokens(self, tokenizer: Any, example: Example) -> Tokens:
        answered = isinstance(example.label, str)
        if self.spec.messages:
            turns = (*example.texts, *((str(example.label),) if answered else ()))
            pieces = pieces_of(tokenizer, turns) if answered else [(prompt_of(tokenizer, turns), False)]
            return tokenised(tokenizer, pieces, [], answered)
        response = [(str(example.label), True)] if answered else []
        return tokenised(tokenizer, [(example.texts[0], False), *response], begin_of(tokenizer), answered)

    def collate(self, tokenizer: Any, examples: Sequence[Example], max_length: int) -> tuple[dict[str, Tensor], Tensor]:
        """Inputs (B, L), padded to the longest of the examples, and labels (B, T, 2)."""
        import torch

        if all(example.tokens for example in examples):
            every = [Tokens(example.tokens["input_ids"], example.tokens["marks"]) for example in examples if example.tokens]
        else:
            every = [fitted(self._tokens(tokenizer, example), max_length) for example in examples]
        inputs = tokenizer.pad([{"input_ids": tokens.ids} for tokens in every], return_tensors="pt")
        longest = max(1, *(len(tokens.targets) for tokens in every))
        labels = [tokens.targets + [(0, NONE)] * (longest - len(tokens.targets)) for tokens in every]
        return dict(inputs), torch.tensor(labels)

    def _response(self, logits: Tensor, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """The logits that predict the response's tokens (B, T, V) in fp32, and 1 where there is such a token (B, T)."""
        from torch import arange

        rows = arange(len(logits), device=logits.device).unsqueeze(1)
        return logits[rows, batch.labels[..., 0]].float(), (batch.labels[..., 1] != NONE).float()

    def _log_probabilities(self, logits: Tensor, batch: MicroBatch) -> Tensor:
        """Of the response's tokens, (B, T); 0 where there is none."""
        from torch.nn.functional import cross_entropy

        chosen, _ = self._response(logits, batch)
        return -cross_entropy(chosen.transpose(1, 2), batch.labels[..., 1], ignore_index=NONE, reduction="none")

    def losses(self, logits: Tensor, batch: MicroBatch) -> Tensor:
        """The mean negative log probability of the response's tokens."""
        return _mean(-self._log_probabilities(logits, batch), (batch.labels[..., 1] != NONE).float())

    def divergence(self, p_logits: Tensor, q_logits: Tensor, batch: MicroBatch) -> Tensor:
        """Symmetrised KL divergence, averaged over the response's tokens."""
        (p, real), (q, _) = self._response(p_logits, batch), self._response(q_logits, batch)
        return _mean(symmetric_kl(p, q) * real, real)

    def kept(self, logits: Tensor, batch: MicroBatch) -> Tensor:
        """The response's log probability, its tokens, and how many of them are the likeliest ones: (B, 3)."""
        from torch import stack

        chosen, real = self._response(logits, batch)
        likeliest = (chosen.argmax(-1) == batch.labels[..., 1]).float()
        return stack([self._log_probabilities(logits, batch).sum(1), real.sum(1), likeliest.sum(1)], 1)

    def right(self, logits: Tensor, batch: MicroBatch) -> Tensor:
        """Whether greedy decoding writes the response. It does if each token is the likeliest after the prompt and the tokens
        before it: as long as all were right, what it has written are these tokens, and at the first wrong one it departs."""
        kept = self.kept(logits, batch)
        return kept[:, 1] == kept[:, 2]

    def answered(self, kept: np.ndarray, examples: Sequence[Example]) -> Answered:
        """Tokens and likeliest tokens, which are equal for an exact match, and the log probabilities."""
        return Answered(kept[:, 1].astype(int).tolist(), kept[:, 2].astype(int).tolist(), kept[:, 0])

    def answers(self, kept: np.ndarray, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """What evaluation says of each response; what the model writes itself comes from generation."""
        import math

        return [
            {"perplexity": math.exp(-log_p / max(1, tokens)), "exact_match": bool(tokens == likeliest)}
            for log_p, tokens, likeliest in kept.tolist()
        ]

    @property
    def answer_types(self) -> dict[str, Any]:
        return {"response": "string"}

    @property
    def served_options(self) -> dict[str, Any]:
        return {"chats": bool(self.spec.messages), "max_new_tokens": None}

    def gold(self, label: Label | None) -> Any:
        return label

    def submitted(self, kept: np.ndarray, examples: Sequence[Example]) -> list[str]:
        raise NotImplementedError("a response is not submitted")

    @property
    def range_of_answers(self) -> tuple[str, tuple[str, ...]]:
        return "the text that greedy decoding writes", ()


def _mean(values: Tensor, real: Tensor) -> Tensor:
    """The mean over a sample's tokens, (B, T) -> (B,); 0 for a sample without any."""
    return values.sum(1) / real.sum(1).clamp(min=1)
