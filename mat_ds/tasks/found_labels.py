"""The labels that are found in a file of the user's own, and the kind of task that they make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mat_ds.errors import Problem, UserError
from mat_ds.tasks.labels import label_text
from mat_ds.tasks.lists import FORM, list_of
from mat_ds.tasks.spec import WORDS, KindName, kind_by

# How spreadsheets and tables write that there is no label.
NONE = ("", "nan")


@dataclass
class FoundLabels:
    """The labels in a file.

    Attributes:
        counts: how often each occurs.
        rows: how many have a label, and of those, how many a list of labels.
        words: rows whose text is a list too.
        soft: rows with a probability for each label.
    """

    counts: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    lists: int = 0
    words: int = 0
    soft: int = 0

    def add(self, value: Any, text: Any) -> None:
        """Counts the label of a row with this text."""
        names = list_of(value)
        if isinstance(value, Mapping) or (names and any(isinstance(name, float) for name in names)):
            self.soft += 1
            return
        found = [label for name in ([value] if names is None else names) if (label := label_text(name)) is not None]
        found = [label for label in found if label.lower() not in NONE]
        self.counts.update(found)
        self.rows += names is not None or bool(found)
        self.lists += names is not None
        self.words += names is not None and list_of(text) is not None

    def kind(self, labels: object, path: str) -> KindName:
        """The kind of task that the file is for.

        Raises:
            UserError: if only some rows have a list, or the classes that probabilities are of are not given.
        """
        if not self.lists:
            return kind_by(labels)
        for count, what in ((self.lists, "a list of labels"), (self.words or self.rows, "a list of words")):
            if count < self.rows:
                reason = f"{count:,} of {self.rows:,} rows of {path} have {what}, the others have not"
                raise UserError(Problem("data.label", None, reason, f"mend the rows: each label is {FORM}"))
        return WORDS if self.words else "multi_label"
