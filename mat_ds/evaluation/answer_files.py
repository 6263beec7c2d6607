"""Writes answers as JSON lines, as a csv or tsv table, or as a submission to the GLUE server; ids and texts go along."""

from __future__ import annotations

import csv
import io
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mat_ds.errors import Problem, printable_json
from mat_ds.tasks.example import Example
from mat_ds.tasks.kinds.base import Kind
from mat_ds.tasks.kinds.outputs import SUBMISSION_HEADER

INDEX, ANSWERS = "index", ("index", "label", "labels", "probabilities", "score", "tags", "entities", "response")
# Columns that name a row.
IDS = ("id", "idx", "guid", "uid", "uuid", "pairid", "qid", "key")
SUFFIXES = {".jsonl": "JSON lines", ".csv": "a csv table", ".tsv": "a tsv table"}
# A .tsv has no quotation marks, so these cannot stand in a value.
ENDS_A_VALUE = {ord(character): " " for character in "\t\r\n"}


class InputRow(NamedTuple):
    """A row to be answered: its number in the input, from 0, what goes along into the output, and the example."""

    number: int
    along: dict[str, Any]
    example: Example


def carried(row: Mapping[str, Any], columns: Sequence[str], answers: Collection[str] = ()) -> dict[str, Any]:
    """The ids and texts of a row, under names that no answer has.

    Args:
        row: as read.
        columns: its text columns.
        answers: keys of the answers besides those of `ANSWERS`.
    """
    ids = [name for name in row if isinstance(name, str) and (name.lower() in IDS or name.lower().endswith("_id"))]
    names = dict.fromkeys([*(name for name in ids if name not in columns), *columns])
    return {f"input_{name}" if name in ANSWERS or name in answers else name: row.get(name) for name in names}


class Answerer(Protocol):
    """What answers: `mat_ds.evaluation.predictor.Predictor`."""

    def kept(self, examples: Sequence[Example]) -> Any:
        """What the kind keeps of the logits, a tensor."""

    def answers(self, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """An answer per example."""


class AnswerForm(ABC):
    """How answers are written.

    Args:
        kind: of the task.

    Attributes:
        name: of the form, for the user.
        columns: of what was written, as far as it has columns.
    """

    name: str
    columns: tuple[str, ...] = ()

    def __init__(self, kind: Kind):
        self.kind = kind

    @abstractmethod
    def lines(self, asked: Sequence[InputRow], answerer: Answerer) -> Iterator[str]:
        """Yields what to write for a batch, without line ends."""


class JsonLines(AnswerForm):
    name = SUFFIXES[".jsonl"]

    def lines(self, asked: Sequence[InputRow], answerer: Answerer) -> Iterator[str]:
        for row, answer in zip(asked, answerer.answers([row.example for row in asked]), strict=True):
            written = {INDEX: row.number, **row.along, **answer}
            self.columns = self.columns or tuple(written)
            yield printable_json(json.dumps(written, ensure_ascii=False, default=str))


class AnswerTable(AnswerForm):
    """A header, then a line per text; of probabilities each label has a column."""

    def __init__(self, kind: Kind, suffix: str):
        super().__init__(kind)
        self.name, self._tabs = SUFFIXES[suffix], suffix == ".tsv"

    def lines(self, asked: Sequence[InputRow], answerer: Answerer) -> Iterator[str]:
        for row, answer in zip(asked, answerer.answers([row.example for row in asked]), strict=True):
            written: dict[str, Any] = {INDEX: row.number, **row.along}
            for name, value in answer.items():
                shares = value.items() if isinstance(value, dict) else ()
                written |= {f"probability_{label}": share for label, share in shares} or {name: value}
            if not self.columns:
                self.columns = tuple(written)
                yield self._joined(self.columns)
            yield self._joined([_in_table(written.get(name)) for name in self.columns])

    def _joined(self, values: Sequence[Any]) -> str:
        if self._tabs:
            return "\t".join(str(value).translate(ENDS_A_VALUE) for value in values)
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(values)
        return line.getvalue()


def _in_table(value: Any) -> Any:
    """A value in a table; a list or mapping is written as JSON."""
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


class Submission(AnswerForm):
    name = "a GLUE submission"

    def lines(self, asked: Sequence[InputRow], answerer: Answerer) -> Iterator[str]:
        if not self.columns:
            self.columns = tuple(SUBMISSION_HEADER.split("\t"))
            yield SUBMISSION_HEADER
        examples = [row.example for row in asked]
        submitted = self.kind.submitted(answerer.kept(examples).numpy(), examples)
        yield from (f"{row.number}\t{value}" for row, value in zip(asked, submitted, strict=True))


def is_submission(out: Path, kind: Kind) -> bool:
    """Whether a file has the name under which the GLUE server takes the task's predictions."""
    return out.name in kind.spec.submission.values()


def answer_form(out: Path | None, kind: Kind) -> AnswerForm:
    """The form that the name of the output asks for; JSON lines if it is printed."""
    if out is None or out.suffix == ".jsonl":
        return JsonLines(kind)
    return Submission(kind) if is_submission(out, kind) else AnswerTable(kind, out.suffix)


def answer_file_problems(out: Path, file: Path | None) -> Iterator[Problem]:
    """Yields what is wrong with the name of the file to write, given the input file."""
    if out.suffix not in SUFFIXES:
        yield Problem("--out", str(out), "the format is not clear from its name", f"end it in {', '.join(SUFFIXES)}")
    if not out.absolute().parent.is_dir():
        yield Problem("--out", str(out), "there is no such folder", "make it first")
    if file is not None and file.is_file() and out.exists() and out.samefile(file):
        yield Problem("--out", str(out), "is the input file, which would be overwritten", "use another name")
    elif os.path.lexists(out):
        yield Problem("--out", str(out), "exists already, and nothing is overwritten", "use another name, or delete it first")
