"""Parses the examples that the commands print with --help.

Imports nothing from tests/, since the Python of an installed wheel runs this file too.
"""

import io
import json
import os
import shlex
from contextlib import redirect_stderr, redirect_stdout, suppress
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

from mat_ds import cli
from mat_ds.runs.load import DEMO_RECIPE, read_run_config
from mat_ds.terminal.parser import Parser


class Parsed(BaseException):
    """Raised to end a command after its arguments have been parsed."""


def parsed_by(main, words):
    """The parsed arguments of a command line."""

    def ending(parse):
        def stop(parser, arguments):
            raise Parsed(parse(parser, arguments))

        return stop

    ways = {name: ending(getattr(Parser, name)) for name in ("parse_args", "parse_intermixed_args")}
    with patch.multiple(Parser, **ways):
        try:
            main(words)
        except Parsed as found:
            return found.args[0]
    raise AssertionError(f"{words} are refused")


def main_of(words):
    """The function that a command line calls, and its arguments."""
    if words[0] == "mat-ds":
        return cli.main, words[1:]
    assert words[:2] == ["deepspeed", "--module"], words
    return import_module(words[2]).main, words[3:]


def check(words):
    """Parses a command line, finds the files that it names, and reads its options; returns the arguments of its command."""
    main, arguments = main_of(words)
    found = vars(parsed_by(main, arguments))
    for name in ("ds_config", "recipe", "space"):
        path = found.get(name)
        assert path is None or Path(path).is_file(), (words, path)
    if "recipe" in found:
        run, problems = read_run_config(found["recipe"], found["overrides"], DEMO_RECIPE)
        assert run and not problems, (words, problems)
    return arguments


def printed_by(command):
    """The example in the help of a command, split into arguments."""
    shown = io.StringIO()
    # The doctor prints its help to stderr. COLUMNS is large so that no line is wrapped.
    with redirect_stdout(shown), redirect_stderr(shown), patch.dict(os.environ, {"COLUMNS": "1000"}), suppress(SystemExit):
        cli.main([command, "--help"])
    return shlex.split(shown.getvalue().rpartition("example: ")[2])


def examples():
    """The example of each command. Raises `AssertionError` for one that cannot be run as printed."""
    found = {command: printed_by(command) for command in cli.COMMANDS}
    for words in found.values():
        check(words)
    return found


if __name__ == "__main__":
    print(json.dumps(examples()))
