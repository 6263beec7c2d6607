"""Names that may become part of a path: of tasks, splits, runs, registered models, revisions on the hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from mat_ds.errors import Problem, UserError

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
RULE = "letters, digits, ., _ and -, no dot in front, at most 100 characters"


def is_name(text: str) -> bool:
    """Whether a text is allowed as the name of a task, split, predictions file, run or registered model."""
    return NAME.fullmatch(text) is not None


def name_of_file(path: Path) -> str:
    """The file's name without its suffix, as the name of a folder of runs; raises `UserError` if it is not allowed as one."""
    if not is_name(path.stem):
        raise UserError(
            Problem(
                "output_dir", None, f"the name of {path} cannot name a folder of runs: use {RULE}", "pass output_dir=<folder>"
            )
        )
    return path.stem


def name_of_task(task: str) -> str:
    """The name of a task that is given by its name, or by the path of its YAML file."""
    return re.sub(r"\.ya?ml$", "", Path(task).name)


def _checked(text: str) -> str:
    if not is_name(text):
        raise ValueError(f"{text[:120]!r} is not allowed as a name (part of a path): use {RULE}")
    return text


Name = Annotated[str, AfterValidator(_checked)]

# It names a file in the hub's cache.
REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


def _checked_revision(text: str) -> str:
    if not REVISION.fullmatch(text) or len(text) > 200:
        raise ValueError(f"{text[:120]!r} is not the name of a commit, tag or branch")
    return text


Revision = Annotated[str, AfterValidator(_checked_revision)]
