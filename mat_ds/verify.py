"""`mat-ds verify`: whether the checkpoints of a run are what was written."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from mat_ds.checkpoints import checkpoints_of, damaged_of, read_manifest, verify
from mat_ds.command import Parser
from mat_ds.errors import ExitCode, Problem, UserError


def main(arguments: Sequence[str]) -> ExitCode:
    """Reads every byte of the checkpoints; prints a line for each, and returns 0 if all are whole, 1 if one is not."""
    parser = Parser(prog="mat-ds verify", description=__doc__, epilog="example: mat-ds verify runs/cola", allow_abbrev=False)
    parser.add_argument("path", type=Path, help="a run folder, its checkpoints/, or one checkpoint")
    try:
        path = parser.parse_args(arguments).path
        found = checkpoints_of(path, beyond_latest=True)
        if not found:
            raise UserError(Problem("path", str(path), "holds no checkpoint", "pass runs/<run>, or one of its checkpoints"))
    except UserError as error:
        print(error, file=sys.stderr)
        return ExitCode.USER_ERROR
    wrong = 0
    for checkpoint in found:
        damage = verify(checkpoint)
        wrong += damage is not None
        size = sum(entry["bytes"] for entry in (read_manifest(checkpoint) or {}).values()) / 2**20
        print(f"{checkpoint.name}  {size:9.1f} MiB  {'DAMAGED: ' + damage if damage else 'whole'}", flush=True)
    for checkpoint in damaged_of(path):
        print(f"{checkpoint.name}  set aside by an earlier run")
    print(f"{len(found) - wrong} of {len(found)} can be trusted")
    return ExitCode.FAILED if wrong else ExitCode.OK
