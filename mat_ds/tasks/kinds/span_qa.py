"""Extractive question answering: the answer is a span of the context, or, in some data, there is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mat_ds.errors import Problem, UserError
from mat_ds.methods.ops import symmetric_kl
from mat_ds.tasks.example import Example, Label, excerpt
from mat_ds.tasks.kinds.base import Kind
from mat_ds.tasks.kinds.outputs import Answered
from mat_ds.tasks.kinds.spans import NEVER, answer_in, best_spans, merged, possible
from mat_ds.tasks.kinds.windows import NoRoomError, SlowTokenizerError, Windows, cut, targets
from mat_ds.tasks.spec import TaskSpec
from mat_ds.tasks.squad import answers_in

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from mat_ds.methods.batch import MicroBatch

# Questions tokenised at a time.
BATCH = 1000


class SpanQA(Kind):
    """The texts of an example are question and context; its label has two characters of the context for each right answer:
    where it begins, and where the text goes on after it, (begin, end, begin, end, ...).

    A context that is longer than an input is cut into windows, and a sample is one window with its question: the `part` of an
    example. Logits are (B, L, 2): of the token at which the answer begins, and of the one at which it ends.

    What the loss compares them with is (B, 3 + 2L), made by `windows.targets`. In a window that does not hold the whole answer,
    the token that stands for "no answer" is the answer. What evaluation keeps is (B, 1 + K, 3), as `best_spans` finds it.
    """

    name = "span_qa"
    auto_class = "AutoModelForQuestionAnswering"
    problem_type = None
    pipeline = "question-answering"
    # PEFT has QUESTION_ANS, whose model takes token types and does not hand them on (0.21).
    peft_task, peft_heads = None, ("qa_outputs",)
    metrics = usual_metrics = ("squad_em", "squad_f1")
    label_dtype, stored_type = "int64", "list<int64>"
    distributions = True
    directions = 2
    stores_tokens, augments = False, False
    server, served_with = "span_qa", ("spans", "windows")
    outputs = 2
    output_names = ("start", "end")
    bounds = (0, 2**31)
    texts_at_once = 2

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from self.without_labels("is for tasks with fixed answers, but the answers are spans of the context")
        if len(self.spec.text) != 2:
            fix = "write text: [question, context]"
            yield Problem("text", self.spec.text, "is not the column of the question and that of the context", fix)
        if self.spec.null_score_diff_threshold and not self.spec.unanswerable:
            value, reason = self.spec.null_score_diff_threshold, "compares with no answer, which the task does not have"
            yield Problem("null_score_diff_threshold", value, reason, "write unanswerable: true too, or delete it")

    @staticmethod
    def described_by(config: Any, text: tuple[str, ...]) -> TaskSpec:
        columns = text if len(text) == 2 else ("question", "context")
        return TaskSpec(name="model", kind="span_qa", text=columns, label="answers", metrics=("squad_em", "squad_f1"))

    # Rows.

    def label(self, value: Any) -> Label:
        """(begin, end, ...) from SQuAD's answers, as published or as on the hub."""
        found = tuple(place for text, start in answers_in(value) for place in (start, start + len(text)))
        if not found and not self.spec.unanswerable:
            raise ValueError("there is no answer; in data such as SQuAD 2, write unanswerable: true in the task YAML")
        return found

    def label_of(self, row: Mapping[str, Any], texts: tuple[str, ...]) -> Label:
        value = [] if row.get("is_impossible") is True else row.get(self.spec.label)
        for text, start in answers_in(value):
            if (there := texts[1][start : start + len(text)]) != text:
                raise ValueError(f"the context has {excerpt(there)!r} at {start}, where the answer is {excerpt(text)!r}")
        return self.label(value)

    def column_labels(self, names: list[str], where: str) -> list[str] | None:
        return names

    @property
    def list_columns(self) -> tuple[str, ...]:
        return (self.spec.label,)

    mapped_columns = list_columns

    # Inputs.

    @property
    def noised_texts(self) -> int:
        return 1  # the question: answers are characters of the context

    def windows(self, tokenizer: Any, examples: Sequence[Example], max_length: int) -> Windows:
        questions, contexts = ([example.texts[i] for example in examples] for i in range(2))
        try:
            return cut(tokenizer, questions, contexts, max_length, self.spec.doc_stride)
        except SlowTokenizerError as error:
            fix = "take a model with a tokenizer.json, or of another family"
            raise UserError(Problem("model.name", tokenizer.name_or_path, str(error), fix)) from None
        except NoRoomError as error:
            fix = "take a smaller doc_stride in the task YAML, or a larger data.max_length"
            raise UserError(Problem("doc_stride", self.spec.doc_stride, f"leaves no room: {error}", fix)) from None

    def parts(self, tokenizer: Any, examples: Sequence[Example], max_length: int) -> Sequence[Example]:
        found: list[Example] = []
        for first in range(0, len(examples), BATCH):
            some = [examples[i] for i in range(first, min(first + BATCH, len(examples)))]
            of = self.windows(tokenizer, some, max_length).of
            found += [replace(some[row], part=i - of.index(row)) for i, row in enumerate(of)]
        return found

    def wholes(self, kept: np.ndarray, parts: Sequence[Example]) -> tuple[np.ndarray, Sequence[Example]]:
        firsts = [i for i, example in enumerate(parts) if example.part == 0]
        return merged(kept, firsts), [parts[i] for i in firsts]

    def tokens(self, tokenizer: Any, examples: Sequence[Example], max_length: int) -> list[list[int]]:
        found = self.windows(tokenizer, examples, max_length)
        ids: list[list[int]] = [[] for _ in examples]
        for row, numbers in zip(found.of, found.inputs["input_ids"], strict=True):
            ids[row] += numbers
        return ids

    def collate(self, tokenizer: Any, examples: Sequence[Example], max_length: int) -> tuple[dict[str, Tensor], Tensor]:
        """Model inputs (B, L), and where answers and tokens are, (B, 3 + 2L)."""
        found = self.windows(tokenizer, examples, max_length)
        rows = [min(first + example.part, len(found.of) - 1) for first, example in zip(found.firsts, examples, strict=True)]
        chosen = {name: [values[i] for i in rows] for name, values in found.inputs.items()}
        inputs = dict(tokenizer.pad(chosen, return_tensors="pt"))
        answers = [next(iter(_spans_of(example.label or ())), None) for example in examples]  # the first, as all recipes train
        return inputs, targets(found, rows, answers, inputs["input_ids"].shape[1])

    # The model.

    def logits_shape(self, inputs: Sequence[int]) -> tuple[int, ...]:
        return inputs[0], inputs[1], self.outputs

    def blank_targets(self, inputs: Sequence[int]) -> Tensor:
        import torch

        return torch.zeros(inputs[0], 3 + 2 * inputs[1], dtype=torch.int64)

    @staticmethod
    def read(output: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """(B, L, 2); the logits of padding are a constant with the probability 0."""
        from torch import stack

        logits = stack([output.start_logits, output.end_logits], -1)
        return logits.masked_fill(inputs["attention_mask"].unsqueeze(-1) == 0, NEVER)

    # The objective of training.

    def losses(self, logits: Tensor, batch: MicroBatch) -> Tensor:
        """The mean of two cross-entropies over all real tokens: of where the answer begins, and of where it ends."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits.float(), batch.labels[:, :2], reduction="none").mean(1)

    def divergence(self, p_logits: Tensor, q_logits: Tensor, batch: MicroBatch) -> Tensor:
        """The sum of two symmetrised KL divergences, of where the answer begins and of where it ends, over the tokens that can
        be either: those of the context, and the one that stands for "no answer"."""
        elsewhere = ~possible(batch.labels).unsqueeze(-1)
        p, q = (logits.float().masked_fill(elsewhere, NEVER).transpose(1, 2) for logits in (p_logits, q_logits))
        return symmetric_kl(p, q).sum(-1)

    # Answers.

    def kept(self, logits: Tensor, batch: MicroBatch) -> Tensor:
        return best_spans(logits, batch.labels, self.spec.max_answer_length)

    @property
    def served_row(self) -> dict[str, Any]:
        return {"question": "What is golden?", "context": "The key near the cabinets is golden."}

    @property
    def served_options(self) -> dict[str, Any]:
        threshold = self.spec.null_score_diff_threshold if self.spec.unanswerable else None
        own = {"doc_stride": self.spec.doc_stride, "max_answer_length": self.spec.max_answer_length}
        return {**own, "null_score_diff_threshold": threshold}

    def _answered(self, kept: np.ndarray, examples: Sequence[Example]) -> list[dict[str, Any]]:
        threshold = self.spec.null_score_diff_threshold if self.spec.unanswerable else None
        return [answer_in(row, example.texts[1], threshold) for row, example in zip(kept, examples, strict=True)]

    def answered(self, kept: np.ndarray, examples: Sequence[Example]) -> Answered:
        """Texts: the right answers to each question, (N, R), and the answer, (N,). The first stands for those that a question
        has fewer of than another, and "" for none."""
        right = [self.gold_of(example) or [""] for example in examples]
        most = max(map(len, right), default=1)
        references = [[*row, *row[:1] * (most - len(row))] for row in right]
        return Answered(references, [found["answer"] for found in self._answered(kept, examples)])

    def answers(self, kept: np.ndarray, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """The answer, where it is in the context, and its probability; as `answer_in` finds it."""
        return self._answered(kept, examples)

    @property
    def answer_types(self) -> dict[str, Any]:
        return {"answer": "string", "start": "long", "end": "long", "score": "double"}

    def gold(self, label: Label | None) -> Any:
        """Where the right answers begin and end."""
        return None if label is None else [list(pair) for pair in _spans_of(label)]

    def gold_of(self, example: Example) -> list[str] | None:
        """The right answers."""
        return None if example.label is None else [example.texts[1][a:b] for a, b in _spans_of(example.label)]

    def submitted(self, kept: np.ndarray, examples: Sequence[Example]) -> list[str]:
        """The answer in one line."""
        return [" ".join(found["answer"].split()) for found in self._answered(kept, examples)]

    @property
    def reads(self) -> str:
        return f"a question and a context ({' and '.join(self.spec.text)})"

    @property
    def range_of_answers(self) -> tuple[str, tuple[str, ...]]:
        return "a span of the context" + (" or none" if self.spec.unanswerable else ""), ()


def _spans_of(label: Any) -> list[tuple[int, int]]:
    """Where the answers of a label begin and end."""
    return list(zip(label[::2], label[1::2], strict=False))
