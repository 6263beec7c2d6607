"""The `mat-ds` command: one word for what to do, then that command's own arguments."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from mat_ds.errors import ExitCode, Problem, UserError, nearest

# Name -> (module whose `main` runs it, what it does). Modules are imported when they are asked for: torch takes seconds.
COMMANDS = {
    "doctor": ("mat_ds.doctor.visit", "what is wrong with this machine, its ranks or a run's input, and the fix"),
    "prepare": ("mat_ds.prepare", "model and data of a run in one folder, tokenised once, for training without a network"),
    "evaluate": ("mat_ds.robustness.evaluate", "scores and robustness of a run or a model folder"),
    "plan": ("mat_ds.planning.command", "whether a run fits on its cards, what it sends, how long it takes"),
    "sweep": ("mat_ds.sweeps.command", "search for the best options, each trial a training of its own"),
    "seeds": ("mat_ds.sweeps.seeds", "the same training over several seeds, and how much its scores vary"),
    "verify": ("mat_ds.verify", "whether the checkpoints of a run are what was written"),
}


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Runs `mat-ds <command> ...` and returns its exit code."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print("usage: mat-ds <command> [-h] ...\n")
        print("\n".join(f"  {command:10} {meaning}" for command, (_, meaning) in COMMANDS.items()))
        return ExitCode.OK
    if name not in COMMANDS:
        print(UserError(Problem("command", name, "there is no such command", nearest(name, COMMANDS))), file=sys.stderr)
        return ExitCode.USER_ERROR
    code: ExitCode = import_module(COMMANDS[name][0]).main(rest)
    return code


if __name__ == "__main__":
    sys.exit(main())
