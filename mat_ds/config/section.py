"""What every part of a configuration has in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

from mat_ds.errors import Problem


class Section(BaseModel):
    """Options read once and never changed; an unknown name or a wrong type is an error, not a guess."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def nested(field: FieldInfo) -> type[BaseModel] | None:
    """The section that stands at a field, whether or not it is there by default; None where a single option does."""
    candidates = (type(field.default), field.annotation, *get_args(field.annotation))
    return next((kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


class MethodSettings(Section):
    """Options of one method; each method subclasses it, with its `name` as a literal."""

    name: str

    def problems(self) -> Iterator[Problem]:
        """Combinations of these options that cannot work."""
        yield from ()
