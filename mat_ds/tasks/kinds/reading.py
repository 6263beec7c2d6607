"""What a kind of task makes of rows: examples, and then the inputs of a model and labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mat_ds.errors import Problem
from mat_ds.tasks.example import BadRow, Example, Label, texts_in
from mat_ds.tasks.spec import TaskSpec

if TYPE_CHECKING:
    from torch import Tensor


class Reading(ABC):
    """The half of a kind (`mat_ds/tasks/kinds/base.py`) that the model is not needed for. B is a number of samples.

    Args:
        spec: the task.

    Attributes:
        label_dtype: of labels in a batch (torch's name).
        stored_type: of labels in prepared data: the name of a pyarrow type, that of a list of it (`list<int64>`), or `json` for
            tuples of tuples or of several types.
        label_per_text: whether a label is a list with an entry for each text, of which examples have any number.
        texts_in_turn: how several texts of an example are given one after another, in messages.
        stores_tokens: whether `mat-ds prepare` stores model inputs; else texts and labels alone, and a run tokenises them.
        augments: whether training may change texts in each epoch: not if examples were cut into parts before.
        stratified: whether a label is one class, so that a dev split can be cut from each in proportion.
    """

    label_dtype: ClassVar[str]
    stored_type: ClassVar[str]
    label_per_text: ClassVar[bool] = False
    texts_in_turn: ClassVar[str] = "two for each pair"
    stores_tokens: ClassVar[bool] = True
    augments: ClassVar[bool] = True
    stratified: ClassVar[bool] = False

    def __init__(self, spec: TaskSpec):
        self.spec = spec

    # Rows.

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a row that its texts come from."""
        return self.spec.text

    @property
    def list_columns(self) -> tuple[str, ...]:
        """Those of the columns, and perhaps the label's, whose values are lists."""
        return ()

    @property
    def mapped_columns(self) -> tuple[str, ...]:
        """Those of the columns, and perhaps the label's, whose values may be mappings, or lists of them."""
        return ()

    @property
    def texts_per_example(self) -> int | None:
        """How many texts every example has; None if any number."""
        return None if self.label_per_text else len(self.columns)

    @property
    def texts_before_choices(self) -> int | None:
        """How many texts of an example come before its choices, which its label numbers; None if it has none."""
        return None

    def texts(self, row: Mapping[str, Any]) -> tuple[str, ...] | BadRow:
        """The texts of a row, or the first fault found."""
        return texts_in(row, self.columns)

    def rows_of(self, texts: Sequence[str]) -> list[dict[str, Any]] | None:
        """The rows that texts are, one after another as on a command line; None if that is not their number."""
        width = len(self.spec.text)
        if len(texts) % width:
            return None
        return [dict(zip(self.spec.text, texts[i : i + width], strict=True)) for i in range(0, len(texts), width)]

    def label_of(self, row: Mapping[str, Any], texts: tuple[str, ...]) -> Label:
        """The label of a row with these texts; raises as `label`."""
        return self.label(row.get(self.spec.label))

    def asked(self, given: Any) -> dict[str, Any] | None:
        """The row that a question from Python stands for: a text, several, or a row; None if it is of another form."""
        if isinstance(given, Mapping):
            return dict(given)
        parts = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, tuple | list) else ()
        rows = self.rows_of(parts) if all(isinstance(text, str) for text in parts) else None
        return rows[0] if rows and len(rows) == 1 else None

    def typed(self, example: Example) -> tuple[str, ...]:
        """The texts of an example as a command line has them, each after `--text`."""
        return example.texts

    @abstractmethod
    def label(self, value: Any) -> Label:
        """Converts a value from a file to a label.

        Raises:
            ValueError: with the reason, if it is not a label.
        """

    @property
    def soft_labels(self) -> bool:
        """Whether a label may be given as `probabilities`."""
        return False

    def probabilities(self, value: Any) -> tuple[float, ...] | None:
        """Converts a value from a file to the probability of each label; None if it is a single label, or the kind has no such
        labels.

        Raises:
            ValueError: with the reason, if it holds probabilities that cannot be used.
        """
        return None

    @abstractmethod
    def column_labels(self, names: list[str], where: str) -> list[str] | None:
        """Labels for a column that numbers its classes in its own order.

        Args:
            names: the column's class names, by number.
            where: name of the file in messages.

        Returns:
            The label of each number; None if the numbers are the labels.

        Raises:
            UserError: if the names are not labels of the task.
        """

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """The lowest and highest valid label, or entry of a label; not asked where labels are stored as texts or JSON."""

    def is_label(self, label: Label) -> bool:
        """Whether a label from prepared data, stored as a text or as JSON, is one of the task; other labels have `bounds`."""
        return True

    # Inputs.

    def tokenizer_problems(self, key: str, name: str, tokenizer: Any) -> Iterator[Problem]:
        """Yields a problem for each thing that the kind needs and a tokenizer lacks.

        Args:
            key, name: the option that named the model, and its name.
        """
        yield from ()

    def parts(self, tokenizer: Any, examples: Sequence[Example], max_length: int) -> Sequence[Example]:
        """The samples of a model that are made of examples: themselves, unless one is more than fits into an input."""
        return examples

    @property
    def noised_texts(self) -> int | None:
        """How many of an example's texts an evaluation may add noise to, and training may change, the first of them; None:
        all."""
        return None

    def inputs_of(self, example: Example) -> int:
        """How many inputs of the model an example has: one, unless it has choices."""
        return 1

    def most_inputs(self, examples: Sequence[Example]) -> int:
        """The most inputs that one of the examples has; a usual number if there are none."""
        return 1

    @property
    def own_inputs(self) -> tuple[str, ...]:
        """Names of what `encode` gives besides model inputs, one whole number a token, such as the number of its word."""
        return ()

    def encode(self, tokenizer: Any, examples: Sequence[Example], max_length: int, **form: Any) -> Any:
        """Model inputs of examples, truncated at `max_length` tokens; `form` are further arguments of the tokenizer."""
        columns = [list(column) for column in zip(*(example.texts for example in examples), strict=True)]
        return tokenizer(*columns, truncation=True, max_length=max_length, **form)

    def tokens(self, tokenizer: Any, examples: Sequence[Example], max_length: int) -> list[list[int]]:
        """The numbers of all tokens of each example, with special tokens."""
        found: list[list[int]] = self.encode(tokenizer, examples, max_length)["input_ids"]
        return found

    @property
    def texts_at_once(self) -> int:
        """How many texts the tokenizer joins to one input: 1, or 2 of a pair."""
        return len(self.spec.text)

    def unread(self, tokenizer: Any, examples: Sequence[Example], max_length: int) -> int:
        """How many texts of the examples the model would not see anything of; counted where each has a label of its own."""
        return 0

    def collate(self, tokenizer: Any, examples: Sequence[Example], max_length: int) -> tuple[dict[str, Tensor], Tensor]:
        """Model inputs (B, L), padded to the longest of the examples, and their labels (B,); an unknown label becomes 0."""
        if all(example.tokens for example in examples):
            inputs = tokenizer.pad([example.tokens for example in examples], return_tensors="pt")
        else:
            inputs = self.encode(tokenizer, examples, max_length, padding=True, return_tensors="pt")
        return dict(inputs), self.targets([example.label for example in examples])

    def targets(self, labels: Sequence[Label | None]) -> Tensor:
        """Labels as the loss compares them with logits, (B,); an unknown label becomes 0."""
        import torch

        return torch.tensor([label or 0 for label in labels], dtype=getattr(torch, self.label_dtype))

    def blank_targets(self, inputs: Sequence[int]) -> Tensor:
        """`targets` of unlabelled samples, given the shape of `input_ids`."""
        return self.targets([None] * inputs[0])
