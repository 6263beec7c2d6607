"""Reads JSON like DeepSpeed does (comments and trailing commas allowed), but rejects duplicate keys."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hjson

from mat_ds.config.text_files import read_text_file
from mat_ds.config.yaml_files import INT64, MOST_BYTES, MOST_LEVELS, Tree
from mat_ds.errors import Problem, UserError
from mat_ds.storage.reading import TwiceError, once


def read_json_object(path: Path, key: str, fix: str) -> Tree:
    """Reads a file that holds one JSON object.

    Args:
        key: the option that named the file, for error messages.
        fix: what the error message advises if the file cannot be read.

    Raises:
        UserError: if the file holds no JSON object, an object has a duplicate key, or a number is not finite or too large.
    """
    text = read_text_file(path, key, MOST_BYTES, fix)
    try:
        tree = _parse_json(text) if text.strip() else None
    except TwiceError as error:
        raise UserError(Problem(key, str(path), str(error), "keep one of the two")) from None
    except RecursionError:
        raise UserError(Problem(key, str(path), "is nested too deep", "write it flat")) from None
    except IndexError:  # hjson's way of reporting a comment that is not closed
        raise UserError(Problem(key, str(path), "is not JSON: it ends in a comment", "close it with */")) from None
    except (ValueError, OverflowError) as error:
        raise UserError(Problem(key, str(path), f"is not JSON: {error}", "mend the file")) from None
    if not isinstance(tree, dict):
        raise UserError(Problem(key, str(path), "is not a JSON object", 'write {"zero_optimization": ...}'))
    if reason := next(_invalid_values(tree), None):
        raise UserError(Problem(key, str(path), reason, "mend the file"))
    return tree


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError:  # hjson also accepts comments and trailing commas, as DeepSpeed does
        return hjson.loads(text, object_pairs_hook=once)


def _invalid_values(value: Any, level: int = 1) -> Iterator[str]:
    """Yields the reasons why a tree cannot be a configuration: too deep, or a number out of range."""
    if level > MOST_LEVELS:
        yield f"is nested more than {MOST_LEVELS} levels deep"
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _invalid_values(inner, level + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"holds {value}, which is not a finite number"
    elif isinstance(value, int) and not -INT64 <= value < INT64:
        yield "holds a whole number of more than 64 bits"
