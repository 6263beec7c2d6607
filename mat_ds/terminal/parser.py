"""The command-line parser of all commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mat_ds.config.paths import path_argument
from mat_ds.errors import Problem, UserError


class Parser(argparse.ArgumentParser):
    """Raises `UserError` for a wrong command line, and expands `~` and `$VARIABLE` in paths. In the name of a flag `-` and `_`
    mean the same.

    Args:
        command: the name of the command.
        description: what it does.
        example: a command line, shown in its help and with every error.
        renamed: a hint at an unknown flag, where another program has one of that name.
    """

    def __init__(
        self, command: str, description: str | None, example: str, renamed: Callable[[str], str | None] = lambda flag: None
    ):
        super().__init__(prog=f"mat-ds {command}", description=description, epilog=f"example: {example}", allow_abbrev=False)
        self.renamed = renamed
        self.register("type", Path, path_argument)

    def error(self, message: str) -> NoReturn:
        raise UserError(Problem("command line", None, message, f"write it as in the {self.epilog}"))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but an unknown flag that has another name here is an error that says so."""
        return self._with_hints(*super().parse_known_args(self._as_declared(args), namespace))

    def parse_known_intermixed_args(self, args: Any = None, namespace: Any = None) -> Any:
        return self._with_hints(*super().parse_known_intermixed_args(self._as_declared(args), namespace))

    def _as_declared(self, args: Sequence[str] | None) -> list[str]:
        """The words of a command line, each flag spelt as it was declared."""
        spellings = {flag.replace("-", "_"): flag for flag in self._option_string_actions if flag.startswith("--")}
        words = list(sys.argv[1:] if args is None else args)
        end = words.index("--") if "--" in words else len(words)
        for i, (flag, equals, value) in enumerate(word.partition("=") for word in words[:end]):
            words[i] = spellings.get(flag.replace("-", "_"), flag) + equals + value if flag.startswith("--") else words[i]
        return words

    def _with_hints(self, parsed: Any, unknown: list[str]) -> Any:
        flags = [flag.partition("=")[0] for flag in unknown if flag.startswith("--")]
        if found := [Problem(flag, None, "there is no such flag", hint) for flag in flags if (hint := self.renamed(flag))]:
            raise UserError(*found)
        return parsed, unknown


def add_plugin_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--plugin`; the command must then load what it names."""
    parser.add_argument("--plugin", type=Path, action="append", default=[], metavar="FILE",
                        help="Python of your own that registers a method or a task; may be given again")  # fmt: skip
