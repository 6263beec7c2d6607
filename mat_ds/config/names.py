"""What may be called what: the one kind of name that may become part of a path."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from mat_ds.errors import Problem, UserError

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
RULE = "letters, digits, ., _ and -, no dot in front, at most 100 characters"


def is_name(text: str) -> bool:
    """Whether a text may be the name of a task, a split, a file of predictions, a run or a registered model."""
    return NAME.fullmatch(text) is not None


def name_of_file(path: Path) -> str:
    """The name that a file gives a folder; raises `UserError` where it would be none."""
    if not is_name(path.stem):
        raise UserError(
            Problem(
                "output_dir", None, f"{path} gives no name to a folder of runs: that takes {RULE}", "pass output_dir=<folder>"
            )
        )
    return path.stem


def _checked(text: str) -> str:
    if not is_name(text):
        raise ValueError(f"{text[:120]!r} is no name: a name becomes part of a path, so take {RULE}")
    return text


Name = Annotated[str, AfterValidator(_checked)]
