"""What every part of a configuration has in common."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

from mat_ds.errors import Problem


class Section(BaseModel):
    """Options read once and never changed; an unknown name or a wrong type is an error, not a guess."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class MethodSettings(Section):
    """Options of one method; each method subclasses it, with its `name` as a literal."""

    name: str

    def problems(self) -> Iterator[Problem]:
        """Combinations of these options that cannot work."""
        yield from ()
