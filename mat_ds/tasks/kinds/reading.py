"""What a kind of task makes of rows: examples, and then the inputs of a model and labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mat_ds.tasks.example import BLANK, BadRow, Example, Label, excerpt, text_fault
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
        stratified: whether a label is one class, so that a dev split can be cut from each in proportion.
    """

    label_dtype: ClassVar[str]
    stored_type: ClassVar[str]
    label_per_text: ClassVar[bool] = False
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
    def texts_per_example(self) -> int | None:
        """How many texts every example has; None if any number."""
        return None if self.label_per_text else len(self.columns)

    def texts(self, row: Mapping[str, Any]) -> tuple[str, ...] | BadRow:
        """The texts of a row, or the first fault found."""
        texts = tuple(row.get(column) for column in self.columns)
        for column, text in zip(self.columns, texts, strict=True):
            if fault := text_fault(column, text):
                return fault
        if not any(text.strip() for text in texts if text):
            return BadRow(BLANK, excerpt(texts[0]), f"{' and '.join(self.columns)} {'is' if len(texts) == 1 else 'are'} blank")
        return texts  # type: ignore[return-value]

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
