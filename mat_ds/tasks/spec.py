"""`TaskSpec`, the declarative description of a task, used for GLUE and for users' own files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from mat_ds.config.names import Name
from mat_ds.config.section import Section
from mat_ds.tasks.measures import METRICS

Rows = Iterable[dict[str, Any]]


def _as_list(value: object) -> object:
    """A lone name as a list of one."""
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], Field(strict=False)]
# A larger number is probably a mistake, and the data might not fit into memory.
MOST_REPEATS = 1000


def _counted(value: object) -> object:
    """Turns a list of sources, or a lone one, into a dictionary that counts each once."""
    value = _as_list(value)
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        return value
    times = Counter(value)
    if twice := next((name for name, count in times.items() if count > 1), None):
        raise ValueError(
            f"{twice} is listed twice; to show its examples twice in an epoch, give all with their number: {{{twice}: 2, ...}}"
        )
    return dict(times)


def _as_written(mixture: dict[str, int]) -> list[str] | dict[str, int]:
    """Serialises as it was written: a list if nothing is repeated, which also matches descriptions in older runs."""
    return list(mixture) if all(repeats == 1 for repeats in mixture.values()) else mixture


# Sources of examples, and how often each is shown per epoch.
Mixture = Annotated[
    dict[Name, Annotated[int, Field(ge=1, le=MOST_REPEATS)]], BeforeValidator(_counted), PlainSerializer(_as_written)
]
Splits = Annotated[tuple[Name, ...], Field(strict=False), BeforeValidator(_as_list)]
if TYPE_CHECKING:
    MetricName = str
else:
    MetricName = Literal[tuple(METRICS)]  # so that pydantic's errors list them


KindName = Literal[
    "causal_lm", "classification", "multi_label", "multiple_choice", "regression", "span_qa", "token_classification"
]


# The kind whose texts are lists of words, what a description may call its columns, and their usual names.
WORDS: Final = "token_classification"
TOKENS, TAGS = "tokens", "tags"
COLUMNS_OF_WORDS = {TOKENS: "text", TAGS: "label"}


def _once_named(tree: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    """The entries of a description of a task of words."""
    for key, usual in COLUMNS_OF_WORDS.items():
        if key in tree and usual in tree:
            raise ValueError(f"`{key}` and `{usual}` both name the column of {key}: leave one of them out")
    return tree.items()


# The kinds between which labels decide.
KINDS_BY_LABELS = ("classification", "regression")


def kind_by(labels: object) -> KindName:
    """The kind of a task that does not say it."""
    return "classification" if labels else "regression"


class TaskSpec(Section):
    """A task over texts: which columns it reads, and what is to be said about them."""

    name: Name = Field(description="also the folder of its files under `data.path`")
    kind: KindName = Field(
        "classification",
        description="what is predicted; without it, classification if there are labels, and regression if there are none",
    )
    text: Annotated[Names, Field(min_length=1, max_length=2), BeforeValidator(_as_list)] = Field(
        description="the text column, or the two of a pair"
    )
    label: str = Field("label", description="the label column; of a causal_lm task, that of the response")
    messages: str | None = Field(
        None, description="column of chats of a causal_lm task, [{role, content}, ...], in place of text and label"
    )
    labels: Names = Field((), description="names of the classes in the order of their numbers; none: regression")
    weight: str | None = Field(None, description="the column with the weight of each training row in the loss; none: all 1")
    label_map: dict[str, str] = Field({}, description="other spellings of the label names in the files")
    range: Annotated[tuple[float, float], Field(strict=False)] | None = Field(
        None, description="lowest and highest score of a regression task"
    )
    choices: Annotated[Names, BeforeValidator(_as_list)] = Field(
        (), description="multiple_choice: the column with the list of choices, or a column for each; none: choices"
    )
    doc_stride: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="span_qa: tokens that two neighbouring windows of a long context share; null: 128, or a quarter of "
        "data.max_length if that is less",
    )
    max_answer_length: Annotated[int, Field(ge=1)] = Field(30, description="span_qa: tokens of an answer, at most")
    unanswerable: bool = Field(False, description="span_qa: whether there are questions without an answer, as in SQuAD 2")
    null_score_diff_threshold: float = Field(
        0.0, description="span_qa: no answer is given where its score exceeds the best answer's by more than this"
    )
    train: Annotated[Mixture, Field(min_length=1)] = Field(
        {"train": 1}, description="splits to train on: a list, or split -> times an epoch shows its examples"
    )
    dev: Annotated[Splits, Field(min_length=1)] = Field(("validation",), description="splits to evaluate and select on")
    test: Splits = Field(("test",), description="splits to predict when training has ended, where they exist")
    test_labelled: bool = Field(False, description="whether predictions on the test splits can be scored")
    metrics: Annotated[tuple[MetricName, ...], Field(strict=False, min_length=1), BeforeValidator(_as_list)] = Field(
        ("accuracy",), description="the task's metrics; their mean over the dev splits selects the best model"
    )
    skip_unlabelled: bool = Field(False, description="drop training rows labelled -1 (no agreement among annotators)")
    also_train_on: Mixture = Field(
        {}, description="tasks of the same labels whose training splits are added: a list, or task -> times"
    )
    hub: str | None = Field(None, description="dataset on the hub")
    hub_config: str | None = Field(None, description="its configuration")
    hub_columns: dict[str, str] = Field({}, description="columns named otherwise on the hub: ours -> theirs")
    submission: dict[Name, Name] = Field({}, description="test split -> name of the GLUE submission file")
    submit_names: bool = Field(False, description="whether that file holds label names instead of numbers")
    group: str | None = Field(None, exclude=True, description="column by whose values scores are broken down; rows may lack it")
    generate: Callable[[str], Rows] | None = Field(None, exclude=True, description="rows of a split of a built-in task")

    @property
    def marks(self) -> tuple[str, ...]:
        """The columns of a labelled row besides its texts: label, and weight if the task has one."""
        return (self.label,) if self.weight is None else (self.label, self.weight)

    @property
    def unweighted(self) -> TaskSpec:
        """The task as its splits are scored, where rows need no weight."""
        return self if self.weight is None else self.model_copy(update={"weight": None})

    @model_validator(mode="before")
    @classmethod
    def _settle_kind(cls, tree: Any) -> Any:
        """Without a kind, labels decide. Tasks of words call their columns otherwise, and a column of
        chats holds what is read and what is answered."""
        if isinstance(tree, dict) and tree.get("kind") is None:
            tree = {**tree, "kind": kind_by(tree.get("labels"))}
        if isinstance(tree, dict) and tree["kind"] == WORDS:
            tree = {COLUMNS_OF_WORDS.get(key, key): value for key, value in _once_named(tree)}
            tree = {"text": TOKENS, "label": TAGS, **tree}
        if isinstance(tree, dict) and isinstance(chats := tree.get("messages"), str):
            given = {
                key: value for key in ("text", "label") if (value := tree.get(key)) not in (None, chats, [chats], (chats,))
            }
            if given:
                raise ValueError(
                    f"messages names the column of the chats, and {' and '.join(given)} names others: leave one out"
                )
            tree = {**tree, "text": (chats,), "label": chats}
        return tree

    @model_validator(mode="after")
    def _check(self) -> TaskSpec:
        if len(self.labels) == 1:
            raise ValueError("one label is not enough: list at least two labels, or none for regression")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("a label is listed twice")
        return self
