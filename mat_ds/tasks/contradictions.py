"""Checks a task description for keys that contradict each other."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator

from mat_ds.config.names import RULE, is_name
from mat_ds.errors import Problem, nearest
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.labels import label_text
from mat_ds.tasks.spec import TaskSpec

# Unicode categories and bidirectional controls that are not allowed in labels: controls, surrogates, line ends.
UNSEEN = ("Cc", "Cs", "Zl", "Zp")
REVERSALS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def contradictions(spec: TaskSpec, where: str) -> Iterator[Problem]:
    """Yields a problem for each contradiction in a task.

    Args:
        where: name of the description in messages.
    """
    for problem in (*label_problems(spec), *column_problems(spec), *split_problems(spec)):
        yield Problem(f"{where}: {problem.key}", problem.value, problem.reason, problem.fix)


def _as_read(label: str) -> str:
    """A label normalised as in a file, where 1.0 is 1."""
    return label_text(label) or label


def _looks(label: str) -> str:
    """A label as a reader sees it: composed accents, single blanks, no invisible characters."""
    seen = "".join(c for c in unicodedata.normalize("NFC", label) if unicodedata.category(c) != "Cf")
    return " ".join(seen.split())


def _twice(names: Iterable[str]) -> Iterator[str]:
    yield from (name for name, count in Counter(names).items() if count > 1)


def label_problems(spec: TaskSpec) -> Iterator[Problem]:
    """Yields problems with labels that look or read alike, a `label_map` to unknown labels, and an empty range."""
    for label in spec.labels:
        if not label.strip() or label != label.strip():
            yield Problem("labels", label, "is blank, or begins or ends with a blank, which files lose", "take a word")
        if any(unicodedata.category(c) in UNSEEN or c in REVERSALS for c in label):
            yield Problem("labels", label, "holds a character that cannot be seen", "take it out")
    for read, what in (
        (str.casefold, "differ only in case, which is ignored when models are matched"),
        (_as_read, "read alike in a file"),
        (_looks, "look alike"),
    ):
        for alike in _twice(read(label) for label in spec.labels):
            yield Problem("labels", [label for label in spec.labels if read(label) == alike], what, "rename one")
    meant = {_as_read(label).casefold(): label for label in spec.labels}
    for spelling, label in spec.label_map.items() if spec.labels else ():
        if label not in spec.labels:
            yield Problem("label_map", {spelling: label}, f"{label!r} is not one of the labels", nearest(label, spec.labels))
        elif (other := meant.setdefault(_as_read(spelling).casefold(), label)) != label:
            yield Problem("label_map", {spelling: label}, f"{spelling!r} already stands for {other!r}", "say it once")
    if spec.skip_unlabelled and (unlabelled := {"-1", "-"} & {*spec.labels, *spec.label_map}):
        yield Problem(
            "skip_unlabelled",
            True,
            f"drops the rows labelled {' and '.join(sorted(unlabelled))}, which is a label",
            "rename the label, or leave out skip_unlabelled",
        )
    yield from kind_of(spec).problems()
    if spec.range and not spec.range[0] < spec.range[1]:
        yield Problem("range", spec.range, "the lowest score is not below the highest", "write range: [lowest, highest]")


def column_problems(spec: TaskSpec) -> Iterator[Problem]:
    """Yields problems with columns that are used twice, unnamed or unknown."""
    columns = (*kind_of(spec).columns, spec.label, *([spec.weight] if spec.weight is not None else []))
    if len(set(spec.text)) < len(spec.text):
        yield Problem("text", spec.text, "is the same column twice", "name the column of each text")
    if spec.label in spec.text and not spec.messages:
        yield Problem("label", spec.label, "is a text column too, so the model would read the answer", "name another column")
    if spec.weight in (*spec.text, spec.label):
        yield Problem("weight", spec.weight, "is a text or label column too", "name another column")
    for key, names in (("text, label", columns), ("hub_columns", spec.hub_columns.values())):
        for blank in (name for name in names if not name.strip()):
            yield Problem(key, blank, "is not a column name", "write the name of a column")
    for column in spec.hub_columns.keys() - set(columns):
        yield Problem("hub_columns", column, "is not a column of this task", f"the columns are: {', '.join(columns)}")
    for theirs in _twice(spec.hub_columns.values()):
        yield Problem("hub_columns", theirs, "stands for two columns", "name a column for each")
    for ours, theirs in spec.hub_columns.items():
        if theirs != ours and theirs in columns and theirs not in spec.hub_columns:
            yield Problem(
                "hub_columns",
                {ours: theirs},
                f"{theirs!r} would be two columns of this task",
                f"say what {theirs} is called on the hub too",
            )
    # A path or URL here would be read from wherever it leads.
    if spec.hub is not None and (spec.hub.count("/") > 1 or not all(map(is_name, spec.hub.split("/")))):
        yield Problem("hub", spec.hub, "is not a dataset on the hub", "write <owner>/<name>; files of your own need no hub")
    if spec.hub_config is not None and not is_name(spec.hub_config):
        yield Problem("hub_config", spec.hub_config, "is not the name of a configuration", f"use {RULE}")
    if spec.hub_config is not None and spec.hub is None:
        yield Problem(
            "hub_config", spec.hub_config, "belongs to a dataset on the hub, but `hub` is missing", "write hub: <dataset> too"
        )


def split_problems(spec: TaskSpec) -> Iterator[Problem]:
    """Yields problems with splits that are both trained on and scored, named twice, or written to the same file."""
    for key in ("dev", "test", "metrics"):
        for name in _twice(getattr(spec, key)):
            yield Problem(key, name, "is named twice", "name it once")
    for role in ("dev", "test"):  # dev and test may share a split, which is then scored and predicted
        for split in (split for split in dict.fromkeys(getattr(spec, role)) if split in spec.train):
            yield Problem(role, split, "is trained on, so its score says nothing", f"name it under train or under {role}")
    for split in spec.submission.keys() - set(spec.test):
        fix = nearest(split, spec.test) if spec.test else f"write test: [{split}] too"
        yield Problem("submission", split, "is not one of the test splits", fix)
    written = [f"{split}.jsonl" for split in dict.fromkeys(spec.dev)]
    written += [spec.submission.get(split, f"{split}.tsv") for split in dict.fromkeys(spec.test)]
    for name in _twice(name.casefold() for name in written):
        yield Problem("submission", name, "would hold the predictions of two splits", "give each a file of its own")
