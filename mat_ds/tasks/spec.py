"""What a task is: a description in data, the same language for GLUE as for a user's own files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mat_ds.config.section import Section

Rows = Iterable[dict[str, Any]]
Names = Annotated[tuple[str, ...], Field(strict=False)]
MetricName = Literal["accuracy", "f1", "matthews_correlation", "pearson", "spearman"]


class TaskSpec(Section):
    """One text classification or regression task over single sentences or pairs."""

    name: str = Field(description="also the folder of its files under `data.path`")
    text: Annotated[Names, Field(min_length=1, max_length=2)] = Field(description="the text column, or the two of a pair")
    label: str = Field("label", description="the label column")
    labels: Names = Field((), description="names of the classes in the order of their numbers; none: regression")
    label_map: dict[str, str] = Field({}, description="other spellings of the label names in the files")
    range: Annotated[tuple[float, float], Field(strict=False)] | None = Field(
        None, description="lowest and highest score of a regression task")  # fmt: skip
    train: Annotated[Names, Field(min_length=1)] = Field(("train",), description="splits to train on")
    dev: Annotated[Names, Field(min_length=1)] = Field(("validation",), description="splits to evaluate and select on")
    test: Names = Field(("test",), description="splits to predict when training has ended, where they exist")
    test_labelled: bool = Field(False, description="whether predictions on the test splits can be scored")
    metrics: Annotated[tuple[MetricName, ...], Field(strict=False, min_length=1)] = Field(
        ("accuracy",), description="the task's metrics; their mean over the dev splits selects the best model")  # fmt: skip
    skip_unlabelled: bool = Field(False, description="drop training rows labelled -1 (no agreement among annotators)")
    also_train_on: Names = Field((), description="tasks of the same labels whose training splits are added")
    hub: str | None = Field(None, description="dataset on the hub")
    hub_config: str | None = Field(None, description="its configuration")
    hub_columns: dict[str, str] = Field({}, description="columns named otherwise on the hub: ours -> theirs")
    submission: dict[str, str] = Field({}, description="test split -> name of the GLUE submission file")
    submit_names: bool = Field(False, description="whether that file holds label names instead of numbers")
    generate: Callable[[str], Rows] | None = Field(None, exclude=True, description="rows of a split of a built-in task")

    @model_validator(mode="after")
    def _check(self) -> TaskSpec:
        if len(self.labels) == 1:
            raise ValueError("one label is no choice: list at least two labels, or none for regression")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("a label is listed twice")
        if "f1" in self.metrics and len(self.labels) != 2:
            raise ValueError("f1 is of two labels, the second being the positive one; take accuracy")
        continuous = {"pearson", "spearman"} & set(self.metrics)
        if bool(continuous) == bool(self.labels):
            raise ValueError("pearson and spearman score regression, the other metrics score labels")
        return self

    @property
    def regression(self) -> bool:
        """Whether labels are real scores."""
        return not self.labels

    @property
    def outputs(self) -> int:
        """Width of the classification head."""
        return len(self.labels) or 1
