"""The columns of prepared data that only the loss in training reads, there if some row has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mat_ds.tasks.example import Example

WEIGHT, PROBABILITIES = "weight", "probabilities"
LOSS_COLUMNS = (WEIGHT, PROBABILITIES)


def loss_types() -> dict[str, Any]:
    """The type of each column."""
    import pyarrow

    return {WEIGHT: pyarrow.float64(), PROBABILITIES: pyarrow.list_(pyarrow.float64())}


def columns_of(examples: Sequence[Example]) -> list[str]:
    """The columns that examples need."""
    weighted = any(example.weight != 1.0 for example in examples)
    soft = any(example.probabilities is not None for example in examples)
    return [name for name, needed in zip(LOSS_COLUMNS, (weighted, soft), strict=True) if needed]


def loss_fault(table: Any, classes: int) -> str | None:
    """Why the columns of a table hold no weights or probabilities; None if they do, or are not there."""
    import pyarrow.compute as pc

    types = {field.name: field.type for field in table.schema}
    if wrong := [name for name, kind in loss_types().items() if types.get(name, kind) != kind]:
        return f"has a {wrong[0]} column of {types[wrong[0]]}"
    if WEIGHT in types:
        weights = table[WEIGHT]
        if weights.null_count or pc.all(pc.and_(pc.greater_equal(weights, 0), pc.is_finite(weights))).as_py() is False:
            return "has weights that are negative or no numbers"
    for row in table[PROBABILITIES].to_pylist() if PROBABILITIES in types else ():
        if row is not None and (len(row) != classes or not all(p is not None and 0 <= p <= 1 for p in row)):
            return "has labels that are not a probability for each"
    return None
