"""Scores by the values of a column, such as the attack by which an example of AdvGLUE was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mat_ds.errors import Problem
from mat_ds.tasks.example import Example

# A column with more values, such as one of ids, is no grouping.
MOST = 100
# The name of the group of rows without a value.
WITHOUT = "(none)"


def rows_by_group(examples: Sequence[Example]) -> dict[str, list[int]]:
    """The positions of the examples of each group, the greatest group first; empty if no example is of one."""
    found: dict[str, list[int]] = {}
    for row, example in enumerate(examples):
        found.setdefault(WITHOUT if example.group is None else example.group, []).append(row)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))) if found.keys() - {WITHOUT} else {}


def group_problems(column: str | None, splits: Mapping[str, Sequence[Example]]) -> Iterator[Problem]:
    """Yields a problem if scores cannot be broken down by a column; `column` is that of the option `groups`."""
    for split, examples in splits.items() if column else ():
        groups = rows_by_group(examples)
        if not groups:
            reason = f"no row of {split} has a value in such a column"
            yield Problem("groups", column, reason, "name a column of the files (prepared data keeps texts and labels only)")
        elif len(groups) > MOST:
            yield Problem("groups", column, f"has {len(groups):,} values on {split}, more than {MOST}", "name another column")
