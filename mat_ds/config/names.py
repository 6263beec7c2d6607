"""What may be called what: the one kind of name that may become part of a path."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
RULE = "letters, digits, ., _ and -, no dot in front, at most 100 characters"


def is_name(text: str) -> bool:
    """Whether a text may be the name of a task, a split, a file of predictions, a run or a registered model."""
    return NAME.fullmatch(text) is not None


def _checked(text: str) -> str:
    if not is_name(text):
        raise ValueError(f"{text[:120]!r} is no name: a name becomes part of a path, so take {RULE}")
    return text


Name = Annotated[str, AfterValidator(_checked)]
