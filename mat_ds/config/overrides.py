"""Parses `section.key=value` arguments; the type of the option decides how its value is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from mat_ds.config.section import choices, nested
from mat_ds.config.text_files import is_unicode
from mat_ds.config.yaml_files import MOST_LEVELS, Tree, parse_yaml, scalar
from mat_ds.errors import Problem


def parse_overrides(arguments: Iterable[str], schema: type[BaseModel]) -> tuple[Tree, list[Problem]]:
    """Parses `["train.epochs=3", "method.name=mat"]` into a nested mapping.

    The value of a text option is taken literally, except that `null` means None if the option allows it. Any other value is
    a YAML scalar, or a list or mapping in brackets. If an option is given twice, the last value counts.

    Args:
        arguments: the command line.
        schema: the model that has the options.

    Returns:
        The nested mapping, and a problem for each argument that cannot be parsed.
    """
    tree: Tree = {}
    problems: list[Problem] = []
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or not key:
            problems.append(Problem(argument, None, "is neither a flag nor key=value",
                                    "write overrides as section.key=value, without blanks around the ="))  # fmt: skip
            continue
        *parents, leaf = key.split(".")
        if not is_unicode(argument):
            problems.append(Problem(key, text, "is not UTF-8 text", "write it in UTF-8, or rename the file that it names"))
            continue
        if len(parents) > MOST_LEVELS:
            problems.append(Problem(key[:100], None, "is nested too deep for an option", "name one of the options"))
            continue
        try:
            value = _parse_value(text, _type(schema, key.split(".")))
        except yaml.YAMLError as error:
            reason = getattr(error, "problem", None) or "cannot be read"
            problems.append(Problem(key, text, f"is not a YAML value: {reason}", "write a list as [a, b], a mapping as {a: b}"))
            continue
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                break
        if not isinstance(node, dict) or isinstance(node.get(leaf), dict) or (leaf in node and isinstance(value, dict)):
            problems.append(
                Problem(key, text, "was already given a value, by a section or by one of its options", "give one of the two")
            )
        else:
            node[leaf] = value
    return tree, problems


def given_twice(arguments: Iterable[str]) -> Iterator[str]:
    """Yields a warning for each option that is given twice with different values."""
    given: dict[str, str] = {}
    for argument in arguments:
        key, _, text = argument.partition("=")
        if text != given.get(key, text):
            yield f"{key} is given twice, as {given[key]!r} and as {text!r}: the last counts"
        given[key] = text


def _type(schema: type[BaseModel], keys: list[str]) -> Any:
    """The type of an option, or of the values of a dictionary option; Any if there is no such option."""
    name, *rest = keys
    field = schema.model_fields.get(name)
    if field is None:
        return Any
    if rest and (kinds := choices(field)):
        return next((_type(kind, rest) for kind in kinds.values() if rest[0] in kind.model_fields), Any)
    if section := nested(field):
        return _type(section, rest) if rest else Any
    if rest:
        return get_args(field.annotation)[1] if get_origin(field.annotation) is dict else Any
    return field.annotation


def _parse_value(text: str, kind: Any) -> Any:
    """The value that an argument's text stands for, given the option's type."""
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    members = tuple(get_args(member)[0] if get_origin(member) is Annotated else member for member in members)
    texts = [member for member in members if member is not type(None)]
    if texts and all(member is str or get_origin(member) is Literal for member in texts):
        return None if text == "null" and type(None) in members else text
    return parse_yaml(text) if text[:1] in ("[", "{") else scalar(text.strip())
