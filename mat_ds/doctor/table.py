"""Prints the rows of all ranks as one table, or as JSON."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mat_ds.doctor.differences import spell
from mat_ds.doctor.rows import Row, Status
from mat_ds.errors import printable, printable_lines

WORDS = {Status.PASS: "pass", Status.WARN: "WARN", Status.FAIL: "FAIL"}
NAME_WIDTH = 22
WIDTH = 120


def merge(rows: Sequence[Row]) -> list[Row]:
    """Merges equal rows of several ranks into one row with all these ranks. The order of groups and names is kept."""
    ranks: dict[Row, list[int]] = {}
    for row in rows:
        ranks.setdefault(replace(row, ranks=()), []).extend(row.ranks)
    merged = [replace(row, ranks=tuple(sorted(set(found)))) for row, found in ranks.items()]
    order = {key: i for i, key in reversed([*enumerate((row.group, row.name) for row in rows)])}
    groups = list(dict.fromkeys(row.group for row in rows))
    return sorted(merged, key=lambda row: (groups.index(row.group), order[row.group, row.name], -row.status))


def shorten(rows: Sequence[Row]) -> list[Row]:
    """Keeps the first of several rows that pass the same check with different findings. The JSON has them all."""
    kept: dict[tuple[object, ...], Row] = {}
    for row in rows:
        key = (row.group, row.name, row.status) if row.status is Status.PASS else (row,)
        kept[key] = replace(kept[key], ranks=kept[key].ranks + row.ranks) if key in kept else row
    return list(kept.values())


def place(row: Row, rows: Sequence[Row], hosts: Mapping[int, str]) -> str:
    """A prefix that names who has this result; empty if all ranks that made the check have it.

    Names hosts if all ranks of these hosts have the result, otherwise ranks.
    """
    looked = {rank for other in rows if (other.group, other.name) == (row.group, row.name) for rank in other.ranks}
    if set(row.ranks) == looked:
        return ""
    names = dict.fromkeys(hosts[rank] for rank in row.ranks)
    whole = all(rank in row.ranks for rank in looked if hosts[rank] in names)
    shown = ", ".join([*list(names)[:3], *([f"and {len(names) - 3} more"] if len(names) > 3 else [])])
    return f"{shown}: " if whole else f"{spell(row.ranks)} ({shown}): "


def verdict(rows: Sequence[Row]) -> str:
    """How many checks have passed and failed, with the names of those that did not pass."""
    names = {status: [row.name for row in rows if row.status is status] for status in Status}
    parts = [
        f"{len(names[status])} {word}" + (f" ({', '.join(dict.fromkeys(names[status]))})" if status else "")
        for status, word in ((Status.FAIL, "failed"), (Status.WARN, "to look at"), (Status.PASS, "passed"))
        if names[status]
    ]
    return ", ".join(parts)


def worst(rows: Sequence[Row]) -> Status:
    """The most serious status among the rows."""
    return max((row.status for row in rows), default=Status.PASS)


def as_text(title: str, rows: Sequence[Row], hosts: Mapping[int, str]) -> str:
    """The table as text, as wide as the terminal."""
    width = max(60, shutil.get_terminal_size((WIDTH, 0)).columns if sys.stdout.isatty() else WIDTH)
    hosts = {rank: printable(host) for rank, host in hosts.items()}
    rows = [
        replace(row, name=printable(row.name), found=printable_lines(row.found), fix=printable_lines(row.fix)) for row in rows
    ]
    lines, group = [printable(title)], ""
    for row in shorten(rows):
        if row.group != group:
            group = row.group
            lines += ["", group]
        indent = 8 + NAME_WIDTH
        found = textwrap.wrap(place(row, rows, hosts) + row.found, width - indent, break_on_hyphens=False) or [""]
        name = f"{row.name:<{NAME_WIDTH}}"
        if len(row.name) >= NAME_WIDTH:  # a long name, such as a file and a line, gets a line of its own
            found, name = ["", *found], row.name
        lines.append(f"  {WORDS[row.status]}  {name}{found[0]}".rstrip())
        lines += [" " * indent + line for line in found[1:]]
        if row.fix:  # not wrapped, so that it can be copied
            lines.append(f"{' ' * indent}{'tip' if row.status is Status.PASS else 'fix'}: {row.fix}")
    return "\n".join([*lines, "", f"{WORDS[worst(rows)]}  {verdict(rows)}"])


def as_json(rows: Sequence[Row], hosts: Mapping[int, str]) -> str:
    """All rows as JSON."""
    found = [
        {"group": row.group, "name": row.name, "status": WORDS[row.status].lower(), "found": row.found, "fix": row.fix,
         "ranks": list(row.ranks), "hosts": list(dict.fromkeys(hosts[rank] for rank in row.ranks))}
        for row in rows
    ]  # fmt: skip
    counts = {WORDS[status].lower(): sum(row.status is status for row in rows) for status in Status}
    return json.dumps({"verdict": WORDS[worst(rows)].lower(), "counts": counts, "rows": found}, indent=2)
