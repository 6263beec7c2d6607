"""Base class and helpers for the sections of a configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, Union, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, GetCoreSchemaHandler, Tag, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Weight = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
# A text can only be meant as `auto`, so that a wrong value is one problem and not one for each of the two types.
CountOrAuto = Annotated[
    Annotated[Count, Tag("count")] | Annotated[Literal["auto"], Tag("auto")],
    Discriminator(lambda value: "auto" if isinstance(value, str) else "count"),
]
# In the same way a number of groups of ranks, or a name of such a division.
RankGroups = Annotated[
    Annotated[Count, Tag("count")] | Annotated[Literal["one", "per_node", "per_rank"], Tag("named")],
    Discriminator(lambda value: "named" if isinstance(value, str) else "count"),
]


class Section(BaseModel):
    """A group of options, immutable. Unknown names and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @property
    def changed(self) -> dict[str, Any]:
        """The options that are not left at their default."""
        return {name: value for name, value in self if value != type(self).model_fields[name].default}


def nested(field: FieldInfo) -> type[BaseModel] | None:
    """The section class of a field, also if it is optional; None if the field is a single option."""
    candidates = (type(field.default), field.annotation, *get_args(field.annotation))
    return next((kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


@dataclass(frozen=True)
class OneOf:
    """Marks a field that holds one of several sections, chosen by the `name` in it.

    Attributes:
        kinds: returns the sections by name. Called at each validation, because plugins may add sections later.
    """

    kinds: Callable[[], dict[str, type[Section]]]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def read(value: Any) -> Any:
            return _discriminated(tuple(self.kinds().values())).validate_python(value)

        return core_schema.no_info_plain_validator_function(read)


@lru_cache
def _discriminated(kinds: tuple[type[Section], ...]) -> TypeAdapter[Any]:
    return TypeAdapter(Annotated[Union[kinds], Field(discriminator="name")])  # type: ignore[arg-type]  # noqa: UP007


def choices(field: FieldInfo) -> dict[str, type[Section]]:
    """The sections allowed at a `OneOf` field, by name; empty for any other field."""
    return next((mark.kinds() for mark in field.metadata if isinstance(mark, OneOf)), {})
