"""The command-line parser of all commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from mat_ds.config.paths import path_argument
from mat_ds.errors import Problem, UserError


class Parser(argparse.ArgumentParser):
    """Raises `UserError` for a wrong command line, pointing to the parser's `epilog`, and expands `~` and `$VARIABLE` in
    paths."""

    def __init__(self, *arguments: Any, renamed: Callable[[str], str | None] = lambda flag: None, **options: Any):
        """
        Args:
            renamed: a hint at an unknown flag, where another program has one of that name.
        """
        super().__init__(*arguments, **options)
        self.renamed = renamed
        self.register("type", Path, path_argument)

    def error(self, message: str) -> NoReturn:
        raise UserError(Problem("command line", None, message, f"write it as in the {self.epilog}"))

    def parse_known_intermixed_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but gives a hint for unknown flags that another program uses."""
        parsed, unknown = super().parse_known_intermixed_args(args, namespace)
        flags = [flag.partition("=")[0] for flag in unknown if flag.startswith("--")]
        if found := [Problem(flag, None, "there is no such flag", hint) for flag in flags if (hint := self.renamed(flag))]:
            raise UserError(*found)
        return parsed, unknown


def add_plugin_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--plugin`; the command must then load what it names."""
    parser.add_argument("--plugin", type=Path, action="append", default=[], metavar="FILE",
                        help="Python of your own that registers a method or a task; may be given again")  # fmt: skip
