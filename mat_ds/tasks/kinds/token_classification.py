"""Token classification: each word of a text has one of several labels, such as parts of speech or named entities."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mat_ds.errors import Problem, UserError
from mat_ds.tasks.example import BadRow, Example, Label, excerpt
from mat_ds.tasks.kinds.base import SERVED_TEXTS
from mat_ds.tasks.kinds.classification import Classification
from mat_ds.tasks.kinds.outputs import Answered
from mat_ds.tasks.kinds.word_logits import at_words, mean_over_words, word_targets
from mat_ds.tasks.kinds.words import OUTSIDE, entities, is_bio, joined, lead_of, word_starts, words_in
from mat_ds.tasks.labels import class_of, known_labels
from mat_ds.tasks.lists import FORM, list_of
from mat_ds.tasks.spec import TaskSpec

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from mat_ds.methods.batch import MicroBatch
    from mat_ds.tasks.kinds.forms import LossForm

# Name of the input that says which tokens begin a word; the model does not get it.
WORDS = "words"


class TokenClassification(Classification):
    """A label of an example is the tuple of its words' classes. The model's answer to a word is that on its first token.

    In shapes, W is the number of words of the longest example, L that of tokens. Loss and divergence of a sample are means over
    its words; those of which the model reads no token, mostly because the text is longer than `max_length`, do not count.
    """

    name = "token_classification"
    auto_class = "AutoModelForTokenClassification"
    problem_type = None  # type: ignore[assignment]
    pipeline = "token-classification"
    peft_task = "TOKEN_CLS"
    metrics = (  # type: ignore[assignment]
        "seqeval_f1", "seqeval_precision", "seqeval_recall", "accuracy", "f1_macro", "f1_micro",
    )  # fmt: skip
    stored_type = "list<int64>"
    label_per_text = True
    stratified = calibrates = picks_largest = False  # it answers without probabilities
    right_name = "exact_match"
    server = "token_classification"

    @property
    def usual_metrics(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("seqeval_f1",) if is_bio(self.spec.labels) else ("accuracy",)

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        spanning = [name for name in self.spec.metrics if name.startswith("seqeval")]
        if spanning and not is_bio(self.spec.labels):
            reason = "counts spans, but the labels are not O and B-..., I-..."
            yield Problem("metrics", ", ".join(spanning), reason, "take accuracy, or write the labels in BIO form")
        if len(self.spec.text) > 1:
            yield Problem("text", ", ".join(self.spec.text), f"a {self.name} task reads one list of words", "name its column")

    @classmethod
    def fits(cls, config: Any) -> bool:
        return any(name.endswith("ForTokenClassification") for name in config.architectures or ())

    @staticmethod
    def described_by(config: Any, text: tuple[str, ...]) -> TaskSpec:
        labels = tuple(str(config.id2label[i]) for i in range(config.num_labels))
        return TaskSpec(name="model", kind="token_classification", text=text, labels=labels)

    # Rows.

    @property
    def list_columns(self) -> tuple[str, ...]:
        return (*self.spec.text, self.spec.label)

    def texts(self, row: Mapping[str, Any]) -> tuple[str, ...] | BadRow:
        """The words of a row: a list, or a text split at blanks."""
        (column,) = self.spec.text
        return words_in(column, row.get(column))

    def asked(self, given: Any) -> dict[str, Any] | None:
        return {self.spec.text[0]: given} if isinstance(given, str | list | tuple) else super().asked(given)

    def typed(self, example: Example) -> tuple[str, ...]:
        return (joined(example.texts),)

    def label_of(self, row: Mapping[str, Any], texts: tuple[str, ...]) -> Label:
        label = self.label(row.get(self.spec.label))
        if len(label) != len(texts):  # type: ignore[arg-type]
            raise ValueError(f"there are {len(label)} labels for {len(texts)} words")  # type: ignore[arg-type]
        return label

    def label(self, value: Any) -> Label:
        if (names := list_of(value)) is None:
            raise ValueError(f"the labels are not {FORM}")
        found = [class_of(self.spec, name) for name in names]
        if None in found:
            wrong = found.index(None)
            raise ValueError(
                f"label {wrong + 1} of {len(found)}, {excerpt(names[wrong])!r}, is none of {known_labels(self.spec)}"
            )
        return tuple(found)  # type: ignore[arg-type]

    # Inputs.

    @property
    def own_inputs(self) -> tuple[str, ...]:
        return (WORDS,)

    def encode(self, tokenizer: Any, examples: Sequence[Example], max_length: int, **form: Any) -> Any:
        if not tokenizer.is_fast:
            reason = f"this tokenizer does not say which word a token is of, which {self.name} needs"
            raise UserError(Problem("model.name", type(tokenizer).__name__, reason, "take a model with a tokenizer.json"))
        lead = lead_of(tokenizer)
        words = [[*example.texts[:1], *(lead + word for word in example.texts[1:])] for example in examples]
        found = tokenizer(words, is_split_into_words=True, truncation=True, max_length=max_length)
        return {**found, WORDS: [word_starts(found.word_ids(i)) for i in range(len(examples))]}

    def collate(self, tokenizer: Any, examples: Sequence[Example], max_length: int) -> tuple[dict[str, Tensor], Tensor]:
        if not all(example.tokens for example in examples):
            found = self.encode(tokenizer, examples, max_length)
            rows = [{name: values[i] for name, values in found.items()} for i in range(len(examples))]
        else:
            rows = [dict(example.tokens or {}) for example in examples]
        targets = word_targets([row.pop(WORDS) for row in rows], examples)
        return dict(tokenizer.pad(rows, return_tensors="pt")), targets

    def blank_targets(self, inputs: Sequence[int]) -> Tensor:
        import torch

        return torch.zeros(*inputs, 2, dtype=torch.int64)

    def unread(self, tokenizer: Any, examples: Sequence[Example], max_length: int) -> int:
        if all(example.tokens for example in examples):
            starts = [example.tokens[WORDS] for example in examples if example.tokens]
        else:
            starts = self.encode(tokenizer, examples, max_length)[WORDS]
        return sum(len(example.texts) for example in examples) - sum(number > 0 for row in starts for number in row)

    # The model.

    def logits_shape(self, inputs: Sequence[int]) -> tuple[int, ...]:
        return (*inputs, self.outputs)

    def losses(self, logits: Tensor, batch: MicroBatch) -> Tensor:
        """Cross-entropy, its mean over the words of a sample."""
        from torch.nn.functional import cross_entropy

        found, real = at_words(logits, batch.labels)
        return mean_over_words(cross_entropy(found.float().mT, batch.labels[..., 1], reduction="none"), real)

    def trained_losses(self, logits: Tensor, batch: MicroBatch, form: LossForm) -> Tensor:
        from torch.nn.functional import one_hot

        found, real = at_words(logits, batch.labels)
        targets = one_hot(batch.labels[..., 1], self.outputs).float()
        return mean_over_words(form.cross_entropy(found, targets) * form.weights(targets), real)

    def class_shares(self, example: Example) -> Mapping[int, float]:
        label: Sequence[int] = example.label  # type: ignore[assignment]
        return {number: count / len(label) for number, count in Counter(label).items()}

    def divergence(self, p_logits: Tensor, q_logits: Tensor, batch: MicroBatch) -> Tensor:
        """Symmetrised KL divergence, its mean over the words of a sample."""
        (p, real), (q, _) = at_words(p_logits, batch.labels), at_words(q_logits, batch.labels)
        return mean_over_words(super().divergence(p, q, batch), real)

    # Scores and answers.

    def right(self, logits: Tensor, batch: MicroBatch) -> Tensor:
        """Whether the labels of all words that are read are right."""
        found, real = at_words(logits, batch.labels)
        return ((found.argmax(-1) == batch.labels[..., 1]) | ~real).all(1)

    def kept(self, logits: Tensor, batch: MicroBatch) -> Tensor:
        """Logits of each word, and 1 if it is read, (B, W, C + 1); zeros for a word that is not."""
        from torch import cat

        found, real = at_words(logits.float(), batch.labels)
        shown = real.unsqueeze(-1).float()
        return cat([found * shown, shown], -1)

    @property
    def unseen(self) -> int:
        """The class of words that the model does not read: O, or the first."""
        return self.spec.labels.index(OUTSIDE) if OUTSIDE in self.spec.labels else 0

    def _classes(self, kept: np.ndarray, examples: Sequence[Example]) -> list[list[int]]:
        """The predicted class of each word of each example."""
        import numpy as np

        best = np.where(kept[..., -1] > 0, kept[..., :-1].argmax(-1), self.unseen)
        return [row[: len(example.texts)].tolist() for row, example in zip(best, examples, strict=True)]

    def answered(self, kept: np.ndarray, examples: Sequence[Example]) -> Answered:
        """The classes of all words of all examples one after another, and the names of those of each example."""
        found = self._classes(kept, examples)
        true: list[list[int]] = [[*(example.label or [0] * len(example.texts))] for example in examples]  # type: ignore[misc]
        references, predictions = ([number for row in rows for number in row] for rows in (true, found))
        named = ([[self.spec.labels[i] for i in row] for row in rows] for rows in (true, found))
        return Answered(references, predictions, sequences=(next(named), next(named)))

    def answers(self, kept: np.ndarray, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """The label of each word; of labels in BIO form also the spans that they stand for."""
        tagged = [[self.spec.labels[i] for i in row] for row in self._classes(kept, examples)]
        if not is_bio(self.spec.labels):
            return [{"tags": tags} for tags in tagged]
        return [
            {"tags": tags, "entities": entities(example.texts, tags)} for tags, example in zip(tagged, examples, strict=True)
        ]

    @property
    def answer_types(self) -> dict[str, Any]:
        entity = {"type": "string", "start": "long", "end": "long", "text": "string"}
        return {"tags": ["string"], **({"entities": [entity]} if is_bio(self.spec.labels) else {})}

    @property
    def served_row(self) -> dict[str, Any]:
        return {"tokens": SERVED_TEXTS[0].split()}

    @property
    def served_options(self) -> dict[str, Any]:
        return {"unseen": self.unseen, "spans": is_bio(self.spec.labels)}

    def gold(self, label: Label | None) -> Any:
        return None if label is None else [self.spec.labels[i] for i in label]  # type: ignore[index, union-attr]

    def submitted(self, kept: np.ndarray, examples: Sequence[Example]) -> list[str]:
        """The labels as a JSON list, by number, or by name if the task says so."""
        found = self._classes(kept, examples)
        return [json.dumps([self.spec.labels[i] for i in row] if self.spec.submit_names else row) for row in found]

    @property
    def reads(self) -> str:
        return "a list of words"

    @property
    def range_of_answers(self) -> tuple[str, tuple[str, ...]]:
        return "one label for each word, of", self.spec.labels
