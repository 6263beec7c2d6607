"""The `mat-ds` command: runs the command named by its first argument."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import mat_ds
from mat_ds.errors import ExitCode, Problem, SaveError, UserError, nearest
from mat_ds.terminal.display import show
from mat_ds.terminal.process import run_process

# Summary of each command; it is run by `main` of its module in `mat_ds.commands`. Modules are imported on use, as torch takes
# seconds.
COMMANDS = {
    "train": "fine-tune, in this process or on several ranks of this machine (--ranks N)",
    "evaluate": "score a model, clean and under attack and noise",
    "predict": "answer texts with labels and probabilities, or scores",
    "export": "write a model to a folder: merged adapters, averaged weights, another precision",
    "soup": "average the weights of finished runs into one model",
    "prepare": "put model and tokenised data of a run into one folder, to train offline",
    "plan": "estimate a run's memory, communication and time",
    "radius": "find the smallest radius at which a method's perturbation matters",
    "doctor": "find problems of this machine, its ranks or a run's input, and how to fix them",
    "verify": "check the checkpoints of a run for damage",
    "sweep": "search for the best options, with one training per trial",
    "seeds": "repeat a training with several seeds, to see how much scores vary",
    "report": "write a page with curves, tables (beside published results) and box plots of runs",
    "sync": "deliver runs to MLflow later, if it was not reachable while they ran",
    "register": "add the model of a finished run to MLflow's registry",
    "promote": "point an alias such as champion to a version, if its score is not lower",
    "models": "list registered models, their scores and aliases",
    "runs": "list the runs of a folder, their scores and how they stand",
    "options": "print the options of a run, their defaults and meanings",
    "env": "print versions, devices and variables, for a bug report",
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


def run(*words: str) -> NoReturn:
    """Runs `mat-ds` as this process, with `words` and the command line's arguments."""
    run_process(lambda arguments: main([*words, *arguments]))


if __name__ == "__main__":
    run()
