"""What every part of a configuration has in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Union, get_args

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

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


@dataclass(frozen=True)
class OneOf:
    """Marks a field at which one of several sections stands, the one of the `name` in it.

    Attributes:
        kinds: the sections by name, asked for whenever options are read: more may have joined since.
    """

    kinds: Callable[[], dict[str, type[Section]]]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def read(value: Any) -> Any:
            return _one_of(tuple(self.kinds().values())).validate_python(value)

        return core_schema.no_info_plain_validator_function(read)


@lru_cache
def _one_of(kinds: tuple[type[Section], ...]) -> TypeAdapter[Any]:
    return TypeAdapter(Annotated[Union[kinds], Field(discriminator="name")])  # type: ignore[arg-type]  # noqa: UP007


def choices(field: FieldInfo) -> dict[str, type[Section]]:
    """The sections of which one stands at a field, by the `name` that chooses it; empty where there is no choice."""
    return next((mark.kinds() for mark in field.metadata if isinstance(mark, OneOf)), {})
