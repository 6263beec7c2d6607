"""`mat-ds verify`: checks whether the checkpoints of a run are undamaged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mat_ds.errors import ExitCode, Problem, UserError
from mat_ds.ranks.exits import attempt
from mat_ds.storage.checkpoints import checkpoints_of, damaged_of, lost_latest
from mat_ds.storage.integrity import is_foreign, read_manifest, read_state, verify_checkpoint
from mat_ds.terminal.display import Display, add_display_arguments
from mat_ds.terminal.parser import Parser


def main(arguments: Sequence[str]) -> ExitCode:
    """Reads every byte of the checkpoints and prints a line for each; returns 0 if all are whole, 1 if one is not."""
    return attempt(lambda: _verify(arguments))


def _verify(arguments: Sequence[str]) -> ExitCode:
    parser = Parser("verify", __doc__, "mat-ds verify runs/cola")
    parser.add_argument("path", type=Path, help="a run folder, its checkpoints/, or one checkpoint")
    add_display_arguments(parser)
    parsed = parser.parse_args(arguments)
    path, display = parsed.path, Display(True, parsed.quiet, parsed.json)
    found = checkpoints_of(path, beyond_latest=True)
    if not found:
        raise UserError(Problem("path", str(path), "has no checkpoint", "pass runs/<run>, or one of its checkpoints"))
    damages = {}
    for checkpoint in found:
        damages[checkpoint.name] = damage = verify_checkpoint(checkpoint)
        size = sum(entry["bytes"] for entry in (read_manifest(checkpoint) or {}).values()) / 2**20
        known = f"DAMAGED: {damage}" if damage else "whole"
        if not damage and is_foreign(read_state(checkpoint)):
            known = "whole, but written by another version of mat_ds, so this one cannot resume from it"
        display.say(f"{checkpoint.name}  {size:9.1f} MiB  {known}")
    for lost in lost_latest(found[0].parent):
        display.warn(lost)
    set_aside = [checkpoint.name for checkpoint in damaged_of(path)]
    display.say(*(f"{name}  set aside by an earlier run" for name in set_aside))
    whole = [name for name, damage in damages.items() if damage is None]
    if display.json:
        display.conclude(json.dumps({"checkpoints": damages, "set_aside": set_aside}))
    else:
        display.conclude(f"{len(whole)} of {len(found)} are whole")
    return ExitCode.OK if len(whole) == len(found) else ExitCode.FAILED
