"""What every part of a configuration has in common."""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Options read once and never changed; an unknown name or a wrong type is an error, not a guess."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def nested(field: FieldInfo) -> type[BaseModel] | None:
    """The section that stands at a field, whether or not it is there by default; None where a single option does."""
    candidates = (type(field.default), field.annotation, *get_args(field.annotation))
    return next((kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def choices(field: FieldInfo) -> dict[str, type[BaseModel]]:
    """The sections of which one stands at a field, by the `name` that chooses it; empty where there is no choice."""
    if field.discriminator is None:
        return {}
    kinds = get_args(field.annotation) if get_origin(field.annotation) in (Union, UnionType) else (field.annotation,)
    return {get_args(kind.model_fields["name"].annotation)[0]: kind for kind in kinds if kind is not None}
