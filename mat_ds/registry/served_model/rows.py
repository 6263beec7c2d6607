"""The rows in whatever MLflow hands to a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas
from mlflow.exceptions import MlflowException

# Rows per forward pass.
BATCH = 32


def refuse(reason: str) -> MlflowException:
    """The error that says what is wrong with a request."""
    return MlflowException.invalid_parameter_value(reason)


def asked_rows(model_input: Any, is_value: Callable[[Any], bool] = lambda value: isinstance(value, str)) -> pandas.DataFrame:
    """The input as a table; unnamed values become column 0.

    Args:
        model_input: a table, records, columns, a list of values, or one value.
        is_value: whether something is one value of a column, such as a text.
    """
    if isinstance(model_input, pandas.DataFrame):
        return model_input
    if isinstance(model_input, pandas.Series):
        return pandas.DataFrame({0: model_input.tolist()})
    if is_value(model_input):
        return pandas.DataFrame({0: pandas.Series([model_input], dtype=object)})
    if isinstance(model_input, Mapping):
        columns = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in model_input.items()}
        columns = {
            name: list(value) if isinstance(value, list | tuple) and not is_value(value) else [value]
            for name, value in columns.items()
        }
        if len({len(value) for value in columns.values()}) > 1:
            raise refuse("columns have different numbers of rows")
        return pandas.DataFrame({name: pandas.Series(value, dtype=object) for name, value in columns.items()})
    rows = model_input.tolist() if hasattr(model_input, "tolist") else list(model_input)
    if rows and all(isinstance(row, Mapping) for row in rows):
        return pandas.DataFrame(rows)
    return pandas.DataFrame({0: pandas.Series(rows, dtype=object)})


def chosen_columns(table: pandas.DataFrame, names: Sequence[str], others: Sequence[str]) -> pandas.DataFrame:
    """The columns that a model reads, under `names`; other columns are ignored.

    Args:
        table: as from `asked_rows`.
        names: as the server calls the columns.
        others: as the task calls them.
    """
    known = list(table.columns)
    if len(names) == 1 and known == [0]:  # a plain list
        return table.set_axis(list(names), axis=1)
    there = [chosen for chosen in dict.fromkeys((tuple(names), tuple(others))) if set(chosen) <= set(known)]
    if len(there) != 1 or any(known.count(name) > 1 for name in there[0]):
        wanted = " or ".join(dict.fromkeys((", ".join(names), ", ".join(others))))
        which = "more than one of" if there else "none of"
        raise refuse(f"the columns {', '.join(map(repr, known))} have {which} what this model reads: {wanted}")
    return table[list(there[0])].set_axis(list(names), axis=1)
