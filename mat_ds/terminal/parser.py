"""The parser of every command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from mat_ds.config.paths import path_argument
from mat_ds.errors import Problem, UserError


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line like every other wrong input, with the parser's `epilog` as the way out, and takes `~` and
    `$VARIABLE` in a path as a recipe does."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.register("type", Path, path_argument)

    def error(self, message: str) -> NoReturn:
        raise UserError(Problem("command line", None, message, f"write it as in the {self.epilog}"))
