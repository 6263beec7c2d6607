"""Reads and writes YAML 1.2: no tags, no aliases, no duplicate keys, limited size.

What is written here reads back unchanged, also with YAML 1.1 readers.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from yaml.error import MarkedYAMLError
from yaml.events import AliasEvent, CollectionStartEvent, NodeEvent
from yaml.reader import ReaderError

from mat_ds.config.text_files import is_unicode, read_text_file
from mat_ds.errors import Problem, UserError

Tree = dict[str, Any]

# A recipe has about a hundred lines; a file beyond these limits is a mistake or an attack.
MOST_BYTES, MOST_NODES, MOST_LEVELS = 1 << 20, 50_000, 40
INT64 = 2**63

SCALARS = (
    ("bool", r"true|false", "tf"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", "-+.0123456789"),
    ("null", r"~|null|", ["~", "n", ""]),
)
TEXT = "tag:yaml.org,2002:str"


class CoreLoader(yaml.SafeLoader):
    """Reads YAML 1.2 scalars: `1e-5` is a number and `off` a word, unlike in YAML 1.1. Keys are read as literal text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, text: str):
        super().__init__(text)
        self._level = self._count = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Composes a node within the size limits."""
        event = self.peek_event()
        if isinstance(event, AliasEvent):
            raise _error(f"holds the alias *{event.anchor}", event.start_mark)
        if isinstance(event, NodeEvent) and (tag := getattr(event, "tag", None)) is not None:
            raise _error(f"holds the tag {tag}", event.start_mark)
        self._count += 1
        self._level += 1
        if self._count > MOST_NODES:
            raise _error(f"holds more than {MOST_NODES:,} values", event.start_mark)
        if self._level > MOST_LEVELS and isinstance(event, CollectionStartEvent):
            raise _error(f"is nested more than {MOST_LEVELS} levels deep", event.start_mark)
        node = super().compose_node(parent, index)
        self._level -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        """Builds a mapping; its keys must be text and unique."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":null"):
                raise _error("has a key that is not text", key.start_mark)
            if key.value in lines:
                raise _error(f"{key.value!r} stands in line {lines[key.value]} and again in line {line}", key.start_mark)
            lines[key.value] = line
        return {key.value: self.construct_object(value, deep=True) for key, value in node.value}

    def scan_yaml_directive_number(self, start_mark: Any) -> int:
        """Reads a number of a version in a %YAML line."""
        try:
            return int(super().scan_yaml_directive_number(start_mark))
        except ValueError:  # Python reads no numbers of thousands of digits
            raise _error("has a version number of more than 64 bits", start_mark) from None

    def construct_int(self, node: Any) -> int:
        """Reads decimal numbers only. YAML 1.1 reads `010` as eight and rejects `08`, but job arrays pad indices with zeros."""
        number = int(node.value) if len(node.value) <= len(str(INT64)) + 20 else INT64
        if not -INT64 <= number < INT64:
            raise _error("holds a whole number of more than 64 bits", node.start_mark)
        return number


def _error(problem: str, mark: Any) -> MarkedYAMLError:
    return MarkedYAMLError(problem=problem, problem_mark=mark)


def _float(loader: CoreLoader, node: Any) -> float:
    return float(re.sub(r"\.(?=inf|nan)", "", node.value))


def _construct_text(loader: CoreLoader, node: Any) -> str:
    if not is_unicode(node.value):
        raise _error("contains half of a surrogate pair, which is not a character", node.start_mark)
    return str(node.value)


CoreLoader.add_constructor("tag:yaml.org,2002:int", CoreLoader.construct_int)
CoreLoader.add_constructor("tag:yaml.org,2002:float", _float)
CoreLoader.add_constructor("tag:yaml.org,2002:map", CoreLoader.construct_mapping)
CoreLoader.add_constructor(TEXT, _construct_text)


class CoreDumper(yaml.SafeDumper):
    """Writes YAML that `CoreLoader` reads back; quotes each text that it or a YAML 1.1 reader would misread."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        """Never writes aliases."""
        return True


for tag, pattern, first in SCALARS:
    for reader in (CoreLoader, CoreDumper):
        reader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})\\Z"), list(first))

PLAIN = re.compile(r"[A-Za-z0-9_./~][A-Za-z0-9_./~+@=-]*( [A-Za-z0-9_./~+@=-]+)*")


def _as_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    old = yaml.SafeLoader("").resolve(yaml.ScalarNode, text, (True, False))
    plain = PLAIN.fullmatch(text) and old == TEXT
    return dumper.represent_scalar(TEXT, text, style=None if plain else '"')


CoreDumper.add_representer(str, _as_text)


def scalar(text: str) -> Any:
    """The value of a bare word in YAML 1.2: a number, true, false, null, or the text itself."""
    loader = CoreLoader("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))
    return loader.construct_object(yaml.ScalarNode(tag, text))


def parse_yaml(text: str) -> Any:
    """Parses a YAML text; raises `yaml.YAMLError` if it is not YAML or uses a feature that is not allowed here."""
    return yaml.load(text, CoreLoader)


def read_yaml(path: Path) -> Tree:
    """Reads a YAML file that holds a mapping; an empty file is an empty mapping. Raises `UserError` if it cannot be read."""
    fix = "pass the path of a YAML file, with lines such as `seed: 1`"
    text = read_text_file(path, str(path), MOST_BYTES, fix)
    loader = None
    try:
        loader = CoreLoader(text)
        node = loader.get_single_node()
        keys = [key for key, _ in node.value] if isinstance(node, yaml.MappingNode) else None
        odd = [key.start_mark.line + 1 for key in keys or () if key.tag != TEXT]
        tree = loader.construct_document(node) if keys is not None and not odd else None
    except yaml.YAMLError as error:
        line, reason, fix = _explained(error, text)
        raise UserError(Problem(f"{path}:{line}" if line else str(path), None, f"is not YAML: {reason}", fix)) from None
    finally:
        if loader:
            loader.dispose()
    if tree is None and node is not None and node.tag != "tag:yaml.org,2002:null":
        where = f": the key in line {odd[0]} is not text" if odd else ""
        raise UserError(Problem(str(path), None, f"does not hold a mapping of options{where}", "write `key: value` lines"))
    return tree or {}


def _explained(error: yaml.YAMLError, text: str) -> tuple[int | None, str, str]:
    """Line, reason and fix for an error of the YAML parser."""
    if isinstance(error, ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return line, f"holds the character U+{ord(text[error.position]):04X}", "take it out, or write it as an escape in quotes"
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    context = getattr(error, "context", None)
    reason = " ".join(filter(None, (f"{context}," if context else None, getattr(error, "problem", None)))) or str(error)
    fixes = {
        "again in line": "keep one of the two",
        "the tag": "delete the tag, and put quotes around what is meant as text",
        "not text": "write every key as a word, in quotes if YAML reads it as something else",
        "64 bits": "put quotes around it if it is meant as text",
        "'\\t'": "indent with blanks instead of tabs",
        "expected a single document": "leave one document in the file",
        "levels deep": "write it flat",
        "the alias": "write the values out",
        "holds more than": "write the values out",
    }
    special = "mend the line; texts with special characters need quotes"
    fix = next((fix for part, fix in fixes.items() if part in reason), special)
    return mark.line + 1 if mark else None, f"{reason} (column {mark.column + 1})" if mark else reason, fix


def as_yaml(tree: Tree) -> str:
    """A tree of options as YAML text."""
    return yaml.dump(tree, Dumper=CoreDumper, sort_keys=False, width=float("inf"))
