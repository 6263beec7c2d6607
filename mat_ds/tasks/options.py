"""Options of the data of a run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mat_ds.config.paths import PathText
from mat_ds.config.section import Count, Section


class DataConfig(Section):
    path: PathText | None = Field(
        None,
        description="folder of `<task>/<split>.jsonl, .json, .csv, .tsv or .parquet`, a `save_to_disk` folder, or "
        "what `mat-ds prepare` wrote; null: the hub",
    )
    max_length: Annotated[int, Field(ge=4)] = Field(512, description="tokens an input is cut at")
    group_by_length: bool = Field(False, description="put examples of like length into one batch (less padding)")
    bad_rows: Literal["refuse", "skip"] = Field(
        "refuse",
        description="on a bad row: refuse the whole input, or skip and count the row "
        "(never in a test split, whose predictions are numbered by its rows)",
    )
    train_limit: Count | None = Field(None, description="use only the first N training examples")
    eval_limit: Count | None = Field(None, description="use only the first N examples of each evaluation split")
