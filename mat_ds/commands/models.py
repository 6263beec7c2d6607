"""`mat-ds models`: lists versions of registered models, their scores and aliases."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from mat_ds.errors import ExitCode, printable
from mat_ds.ranks.exits import attempt
from mat_ds.registry.locate import URI_MEANING
from mat_ds.terminal.display import show
from mat_ds.terminal.layout import table_text
from mat_ds.terminal.parser import Parser
from mat_ds.terminal.process import importing

if TYPE_CHECKING:
    from mat_ds.registry.versions import Registered

EXAMPLE = "mat-ds models acceptability"
# Heading -> tag of a version.
COLUMNS = {"task": "task", "method": "method", "seed": "seed", "score": "score", "last": "last", "best": "best",
           "median": "median_last_half", "dev set": "dev_sha256", "run": "run"}  # fmt: skip


def main(arguments: Sequence[str]) -> ExitCode:
    """Runs the command and returns its exit code."""
    return attempt(lambda: _list(arguments))


def _list(arguments: Sequence[str]) -> None:
    parser = Parser("models", __doc__, EXAMPLE)
    parser.add_argument("name", metavar="NAME", nargs="?", help="a registered model; default: all")
    parser.add_argument("--uri", help=URI_MEANING)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parsed = parser.parse_args(arguments)
    with importing(what="MLflow"):
        from mat_ds.registry.versions import registered_versions

    found = list(registered_versions(parsed.name, parsed.uri))
    if parsed.json:
        print(json.dumps([asdict(entry) for entry in found]))
    else:
        show(as_table(found) if found else "no model is registered")


def as_table(entries: Iterable[Registered]) -> str:
    """A table with a heading and a line per version."""
    from mat_ds.registry.versions import PREFIX

    rows = [["model", "aliases", *COLUMNS]]
    for entry in entries:
        values = [_shortened_value(heading, entry.tags.get(PREFIX + tag, "-")) for heading, tag in COLUMNS.items()]
        rows.append([*map(printable, (f"{entry.name}/{entry.version}", ", ".join(entry.aliases) or "-", *values))])
    return table_text(rows)


def _shortened_value(heading: str, value: str) -> str:
    """A score with four decimals, or the start of a digest."""
    if value != "-" and heading in ("score", "last", "best", "median"):
        return f"{float(value):.4f}"
    return value[:8] if heading == "dev set" else value
