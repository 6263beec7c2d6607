"""Parses a task description from a YAML file or a model folder, with a helpful problem for each mistake."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from mat_ds.config.validation import meant_choice
from mat_ds.errors import Problem, UserError, nearest
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.spec import COLUMNS_OF_WORDS, WORDS, TaskSpec

EXAMPLES = {
    "name": "name: my_task", "kind": "kind: classification",
    "text": "text: [sentence]", "label": "label: label", "labels": 'labels: ["no", "yes"]',
    "choices": "choices: choices", "doc_stride": "doc_stride: 128", "max_answer_length": "max_answer_length: 30",
    "unanswerable": "unanswerable: true", "null_score_diff_threshold": "null_score_diff_threshold: 0.0",
    "label_map": 'label_map: {"0": "no", "1": "yes"}', "weight": "weight: weight", "messages": "messages: messages",
    "range": "range: [0, 5]", "train": "train: [train]",
    "dev": "dev: [validation]", "test": "test: [test]", "test_labelled": "test_labelled: true",
    "metrics": "metrics: [accuracy]",
    "skip_unlabelled": "skip_unlabelled: true", "also_train_on": "also_train_on: [mnli, snli]", "hub": "hub: nyu-mll/glue",
    "hub_config": "hub_config: cola", "hub_columns": "hub_columns: {sentence: text}",
    "tokens": "tokens: tokens", "tags": "tags: ner_tags",
    "submission": "submission: {test: MyTask.tsv}", "submit_names": "submit_names: true",
}  # fmt: skip
KNOWN = EXAMPLES.keys()  # `generate` is not among them: it is a function
# What else people call these keys.
OTHER_NAMES = {
    **dict.fromkeys(("columns", "text_column", "text_columns", "inputs", "sentence", "sentences", "prompt"), "text"),
    **dict.fromkeys(("label_column", "target", "response", "completion"), "label"),
    **dict.fromkeys(("classes", "class_names", "label_names"), "labels"),
    **dict.fromkeys(("validation", "valid", "eval"), "dev"),
    "dataset": "hub",
    "conversations": "messages",
    "chat": "messages",
}


def read_spec(tree: dict[str, Any], where: str) -> TaskSpec:
    """Validates a task description.

    Args:
        tree: the mapping as read.
        where: name of its source in messages.

    Raises:
        UserError: naming every key that is unknown or of the wrong type.
    """
    others = [key for key in COLUMNS_OF_WORDS if key in tree and tree.get("kind") != WORDS]
    known = {key: value for key, value in tree.items() if key in KNOWN and key not in others}
    unknown = [Problem(f"{where}: {key}", tree[key], f"is for {WORDS} tasks", f"write kind: {WORDS} too") for key in others]
    unknown += [Problem(f"{where}: {key}", tree[key], "there is no such key", _known_key(key)) for key in tree.keys() - KNOWN]
    try:
        spec = TaskSpec.model_validate(known)
    except ValidationError as error:
        raise UserError(*unknown, *_problems(error, tree, where)) from None
    if unknown:
        raise UserError(*unknown)
    return spec if tree.get("metrics") else spec.model_copy(update={"metrics": kind_of(spec).usual_metrics})


def _known_key(key: str) -> str:
    """A hint at an unknown key."""
    return f"write it as in `{EXAMPLES[OTHER_NAMES[key]]}`" if key in OTHER_NAMES else nearest(key, KNOWN)


def _problems(error: ValidationError, tree: dict[str, Any], where: str) -> Iterator[Problem]:
    """Yields one problem per key that pydantic rejected."""
    seen = set()
    for found in error.errors():
        key = str(found["loc"][0]) if found["loc"] else "the task"
        if key in seen:
            continue
        seen.add(key)
        reason = found["msg"][:1].lower() + found["msg"][1:]
        if found["type"] == "missing":
            yield Problem(f"{where}: {key}", None, "is missing", f"write it, as in `{EXAMPLES[key]}`")
        elif key in KNOWN:
            fix = f"{meant_choice(found)}write it as in `{EXAMPLES[key]}`"
            yield Problem(f"{where}: {key}", tree.get(key), reason, fix)
        else:
            fix = f"write at least `{EXAMPLES['text']}` and `{EXAMPLES['labels']}`, or `{EXAMPLES['range']}`"
            yield Problem(where, None, reason.removeprefix("value error, "), fix)
