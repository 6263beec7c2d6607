"""Options of the data of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from os.path import abspath
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mat_ds.config.names import Revision
from mat_ds.config.paths import PathText
from mat_ds.config.section import Count, Section
from mat_ds.errors import Problem
from mat_ds.tasks.augment import AugmentConfig

# The share of data.train that is validated on where nothing else says.
DEV_SHARE = 0.1


def _split_list(value: Any) -> Any:
    """A list, also where it is written as on a command line: `title,body`. Numbers and truth values are taken as text."""
    if isinstance(value, str):
        return [name.strip() for name in value.split(",")]
    items = value if isinstance(value, list | tuple) else [value]
    plain = all(isinstance(item, str | int | float) for item in items)
    return [item if isinstance(item, str) else json.dumps(item) for item in items] if plain else value


Listed = Annotated[tuple[str, ...], BeforeValidator(_split_list), Field(strict=False)]


class DataConfig(Section):
    train: PathText | None = Field(
        None,
        description="your own training examples, without a task YAML: a .csv, .tsv, .jsonl, .json or .parquet file, or a "
        "`save_to_disk` folder",
    )
    validation: PathText | None = Field(
        None, description="the file to validate on, beside data.train; null: a share of data.train, see data.dev_share"
    )
    text: Annotated[Listed, Field(min_length=1, max_length=2)] | None = Field(
        None, description="text column of data.train, or the two of a pair, as title,body; null: text"
    )
    label: str | None = Field(None, description="label column of data.train; null: label")
    weight: str | None = Field(None, description="column of data.train with the weight of each row in the loss; null: none")
    labels: Listed | None = Field(
        None,
        description="class names in data.train, in the order of their numbers; []: the labels are scores (regression); null: "
        "as found in the file: classes if they are words or few whole numbers, else scores",
    )
    dev_share: Annotated[float, Field(gt=0.0, lt=1.0)] | None = Field(
        None,
        description="share of data.train that is validated on where there is no data.validation: of each class, chosen by "
        f"the texts alone, so the same for every seed and order of rows; null: {DEV_SHARE}",
    )
    path: PathText | None = Field(
        None,
        description="folder of `<task>/<split>.jsonl, .json, .csv, .tsv or .parquet`, a `save_to_disk` folder, or "
        "what `mat-ds prepare` wrote; null: the hub",
    )
    revision: Revision | None = Field(
        None,
        description="commit, tag or branch of the task's dataset on the hub, its commit is in environment.json; null: main",
    )
    max_length: Annotated[int, Field(ge=4)] = Field(512, description="tokens an input is cut at")
    group_by_length: bool = Field(False, description="put examples of like length into one batch (less padding)")
    bad_rows: Literal["refuse", "skip"] = Field(
        "refuse",
        description="on a bad row: refuse the whole input, or skip and count the row "
        "(never in a test split, whose predictions are numbered by its rows)",
    )
    augment: AugmentConfig | None = Field(
        None, description="train on texts that are changed and keep their labels; any `data.augment.*` turns it on"
    )
    train_limit: Count | None = Field(None, description="use only the first N training examples")
    eval_limit: Count | None = Field(None, description="use only the first N examples of each evaluation split")

    @property
    def own(self) -> str | None:
        """The user's own folder or file that examples come from; None: the hub, unless the task makes them."""
        return self.path or self.train

    @property
    def cut_share(self) -> float | None:
        """The share of `train` to validate on; None if the validation examples are elsewhere."""
        return (self.dev_share or DEV_SHARE) if self.train and not self.validation else None

    def file_of(self, split: str) -> str | None:
        """The user's own file of a split; None if the split is looked for in `path`, or on the hub."""
        return {"train": self.train, "validation": self.validation}.get(split)

    def problems(self) -> Iterator[Problem]:
        """Checks options that are valid on their own but not together."""
        own = {
            "validation": self.validation,
            "text": self.text,
            "label": self.label,
            "weight": self.weight,
            "labels": self.labels,
        }
        for name, value in {**own, "dev_share": self.dev_share}.items():
            if value is not None and self.train is None:
                yield Problem(f"data.{name}", value, "belongs to data.train, which is not given", "pass data.train=<file>")
        if self.train and self.validation and self.dev_share:
            reason = "cuts a part of data.train to validate on, but data.validation names a file for that"
            yield Problem("data.dev_share", self.dev_share, reason, "leave one of the two out")
        if self.train and self.validation and abspath(self.train) == abspath(self.validation):
            yield Problem("data.validation", self.validation, "is what is trained on, so its score would say nothing",
                          "name another file, or leave it out: a part of data.train is then kept for it")  # fmt: skip
        if self.train and self.labels is not None and len(self.labels) == 1:
            fix = "list at least two, or none ([]) if the labels are scores"
            yield Problem("data.labels", list(self.labels), "one class is not enough", fix)
        if self.revision and self.own:
            reason = f"is of a dataset on the hub, but the examples come from {self.own}"
            yield Problem("data.revision", self.revision, reason, "leave it out")
        if self.labels is not None and len(set(self.labels)) < len(self.labels):
            yield Problem("data.labels", list(self.labels), "names a class twice", "name each once")
