"""The `mat-ds` command: one word for what to do, then that command's own arguments."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

import mat_ds
from mat_ds.errors import ExitCode, Problem, SaveError, UserError, nearest
from mat_ds.terminal.display import show

# What each does; the `main` of the module of that name in `mat_ds.commands` runs it. Modules are imported when they are asked
# for: torch takes seconds.
COMMANDS = {
    "train": "fine-tune in one process; on several ranks: deepspeed launch/train.py",
    "evaluate": "scores and robustness of a model",
    "predict": "labels and probabilities, or scores, of texts in a file",
    "export": "a model as a folder of its own: adapters merged, averages, another precision",
    "prepare": "model and data of a run in one folder, tokenised once, to train without a network",
    "plan": "whether a run fits on its cards, what it sends, how long it takes",
    "doctor": "what is wrong with this machine, its ranks or a run's input, and the fix",
    "verify": "whether the checkpoints of a run are what was written",
    "sweep": "search for the best options, each trial a training of its own",
    "seeds": "the same training over several seeds, and how much its scores vary",
    "report": "curves, tables beside the published ones and box plots of runs, on one page",
    "sync": "bring runs to an MLflow that was not there while they ran",
    "register": "the model of a finished run into MLflow's registry",
    "promote": "an alias such as champion for a version, if its score allows",
    "models": "registered models, their scores and aliases",
}


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Runs `mat-ds <command> ...` and returns its exit code."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        show("usage: mat-ds <command> [-h] ...  or  mat-ds --version\n")
        show("\n".join(f"  {command:10} {meaning}" for command, meaning in COMMANDS.items()))
        return ExitCode.OK
    if name == "--version":
        show(f"mat_ds {mat_ds.__version__}")
        return ExitCode.OK
    if name not in COMMANDS:
        show(UserError(Problem("command", name, "there is no such command", nearest(name, COMMANDS))), sys.stderr)
        return ExitCode.USER_ERROR
    try:
        code: ExitCode = import_module(f"mat_ds.commands.{name}").main(rest)
    except SaveError as error:
        from mat_ds.ranks.exits import refused

        show(refused(error), sys.stderr)
        return ExitCode.FAILED
    return code


if __name__ == "__main__":
    sys.exit(main())
