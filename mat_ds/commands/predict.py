"""`mat-ds predict`: prints labels and probabilities, or scores, that a model predicts for texts.

It reads any number of texts, also from a pipe, with one batch in memory at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TextIO

from mat_ds.config.paths import argument
from mat_ds.errors import ExitCode, Problem, UserError, printable_json, raise_if_any
from mat_ds.ranks.exits import attempt
from mat_ds.ranks.processors import share_processors
from mat_ds.ranks.world import World
from mat_ds.registry.locate import MEANING, REGISTRY, locate
from mat_ds.runs.plugins import load_plugins
from mat_ds.storage.disk import open_aside
from mat_ds.tasks.files import read_lines
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.kinds.base import SUBMISSION_HEADER
from mat_ds.tasks.lines import STDIN, TEXT
from mat_ds.tasks.registry import find_task
from mat_ds.tasks.rows import BadRow, Example, lacking_columns, make_example
from mat_ds.tasks.spec import TaskSpec
from mat_ds.terminal.parser import Parser, add_plugin_argument
from mat_ds.terminal.process import importing
from mat_ds.terminal.waiting import waiting

EXAMPLE = "mat-ds predict runs/cola sentences.txt --out answers.jsonl"
SUFFIXES = {"csv": ".csv", "tsv": ".tsv", "jsonl": ".jsonl", "text": ".txt"}
SUBMISSION = ".tsv"


def main(arguments: Sequence[str]) -> ExitCode:
    """Runs the command and returns its exit code."""
    share_processors(1)
    return attempt(lambda: predict_file(parse(arguments)), World(), "The model's weights are damaged, or never were finite.")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the command line; raises `UserError` if it is invalid."""
    parser = Parser("predict", __doc__, EXAMPLE)
    parser.add_argument("model", metavar="MODEL", type=argument, help=MEANING)
    parser.add_argument(
        "file", metavar="FILE", type=Path, help="the texts: .csv, .tsv, .jsonl or .txt (one text per line); - is standard input"
    )
    parser.add_argument("--out", type=Path, help=".jsonl, or .tsv for a GLUE submission; default: print JSON lines")
    parser.add_argument("--format", choices=SUFFIXES, help="format of the input, if its name does not tell")
    parser.add_argument(
        "--columns",
        nargs="+",
        metavar="NAME",
        help="the text column of the file, or the two of a pair, if they are not named as in the task",
    )
    parser.add_argument("--task", type=argument, help="a task or a task YAML, for a model that does not name its task itself")
    add_plugin_argument(parser)
    parser.add_argument("--batch_size", type=int, default=32, metavar="N", help="texts per forward pass (%(default)s)")
    return parser.parse_args(arguments)


def predict_file(parsed: argparse.Namespace) -> int:
    """Predicts batch by batch; returns the number of texts."""
    raise_if_any(_argument_problems(parsed))
    load_plugins(parsed.plugin)
    if not parsed.model.startswith(REGISTRY):
        locate(parsed.model)
    if parsed.task:
        find_task(parsed.task)
    with importing():  # only now, as it takes seconds
        from tqdm import tqdm

        from mat_ds.evaluation.predictor import load_predictor

    with waiting(f"loading {parsed.model}"):
        predictor = load_predictor(parsed.model, parsed.task, parsed.columns)
    suffix = SUFFIXES[parsed.format] if parsed.format else parsed.file.suffix
    examples, count, kind = read_examples(parsed.file, suffix, predictor.spec), 0, kind_of(predictor.spec)
    with _open_output(parsed.out) as out, tqdm(unit=" texts", disable=_silent(parsed.out)) as bar:
        if parsed.out and parsed.out.suffix == SUBMISSION:
            print(SUBMISSION_HEADER, file=out)
        while batch := list(islice(examples, parsed.batch_size)):
            logits = predictor.logits(batch).numpy()
            if parsed.out and parsed.out.suffix == SUBMISSION:
                lines = [f"{count + i}\t{value}" for i, value in enumerate(kind.submitted(logits))]
            else:
                found = kind.answers(logits)
                rows = (json.dumps({"index": count + i, **answer}, ensure_ascii=False) for i, answer in enumerate(found))
                lines = list(map(printable_json, rows))
            print("\n".join(lines), file=out, flush=True)
            count += len(batch)
            bar.update(len(batch))
    return count


def read_examples(path: Path, suffix: str, spec: TaskSpec) -> Iterator[Example]:
    """Yields the texts of a file. Predictions are numbered by rows, so no row is skipped.

    Raises:
        UserError: at the first bad row, naming file and line.
    """
    if suffix == SUFFIXES["text"]:
        if len(spec.text) == 2:
            raise UserError(Problem("FILE", str(path), f"{spec.name} reads pairs of texts, but a .txt file has one a line",
                                    "pass a .tsv, .csv or .jsonl file"))  # fmt: skip
        spec = spec.model_copy(update={"text": (TEXT,)})
    for where, row in read_lines(path, suffix):
        if isinstance(row, dict) and (missing := [column for column in spec.text if column not in row]):
            raise UserError(lacking_columns(where, row, missing, "pass the names of the file's with --columns"))
        found = row if isinstance(row, BadRow) else make_example(spec, row, labelled=False)
        if isinstance(found, BadRow):
            raise UserError(Problem(where, found.value, found.reason, "mend or delete the row"))
        yield replace(found, where=where)


def _argument_problems(parsed: argparse.Namespace) -> Iterable[Problem]:
    if parsed.file != STDIN and not parsed.file.is_file():
        yield Problem("FILE", str(parsed.file), "there is no such file", "pass the path of one, or - for standard input")
    elif parsed.format is None and parsed.file.suffix not in SUFFIXES.values():
        yield Problem("FILE", str(parsed.file), "the format is not clear from its name", f"pass --format {', '.join(SUFFIXES)}")
    if parsed.out and parsed.out.suffix not in (".jsonl", SUBMISSION):
        yield Problem(
            "--out",
            str(parsed.out),
            "the format is not clear from its name",
            "end it in .jsonl, or in .tsv for a GLUE submission",
        )
    if parsed.out and not parsed.out.absolute().parent.is_dir():
        yield Problem("--out", str(parsed.out), "there is no such folder", "make it first")
    if parsed.out and parsed.file.is_file() and parsed.out.exists() and parsed.out.samefile(parsed.file):
        yield Problem("--out", str(parsed.out), "is the input file, which would be overwritten", "use another name")
    if parsed.batch_size < 1:
        yield Problem("--batch_size", parsed.batch_size, "is not a positive number", "use at least 1")
    if parsed.columns and len(parsed.columns) > 2:
        yield Problem("--columns", " ".join(parsed.columns), "names more than a pair", "name one or two")


@contextmanager
def _open_output(path: Path | None) -> Iterator[TextIO]:
    """Opens the output: a file that is renamed into place when complete, or standard output."""
    if path is None:
        try:
            yield sys.stdout
        except BrokenPipeError:  # the reader has stopped, as `head` does; Python flushes the rest at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    with open_aside(path) as file:
        yield file


def _silent(out: Path | None) -> bool | None:
    """True to disable the progress bar, when answers are printed to a terminal; None lets tqdm decide."""
    return True if out is None and sys.stdout.isatty() else None
