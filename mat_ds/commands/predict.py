"""`mat-ds predict`: answers texts with the labels and probabilities, or scores, that a model predicts for them.

It reads any number of texts, also from a pipe, with one batch in memory at a time. Ids and texts go along into the output.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from mat_ds.artifacts.members import members_of
from mat_ds.config.paths import argument
from mat_ds.errors import ExitCode, Problem, UserError, raise_if_any
from mat_ds.evaluation.answer_files import InputRow, answer_file_problems, answer_form, carried, is_submission
from mat_ds.ranks.exits import attempt
from mat_ds.ranks.processors import share_processors
from mat_ds.registry.locate import MEANING, locate
from mat_ds.runs.plugins import load_plugins
from mat_ds.storage.disk import open_aside
from mat_ds.tasks.example import TOKENLESS, BadRow
from mat_ds.tasks.files import read_lines
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.lines import STDIN, TEXT
from mat_ds.tasks.registry import find_task
from mat_ds.tasks.rows import lacking_columns, make_example
from mat_ds.tasks.spec import TOKENS, TaskSpec
from mat_ds.terminal.display import show
from mat_ds.terminal.lost_readers import has_lost_reader
from mat_ds.terminal.parser import Parser, add_plugin_argument
from mat_ds.terminal.process import importing
from mat_ds.terminal.waiting import waiting

EXAMPLE = "mat-ds predict runs/cola sentences.csv --out answers.csv"
SUFFIXES = {"csv": ".csv", "tsv": ".tsv", "jsonl": ".jsonl", "text": ".txt", "conll": ".conll"}


def main(arguments: Sequence[str]) -> ExitCode:
    """Runs the command and returns its exit code."""
    share_processors(1)
    return attempt(lambda: predict_file(parse(arguments)), advice="The model's weights are damaged, or never were finite.")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the command line; raises `UserError` if it is invalid."""
    parser = Parser("predict", __doc__, EXAMPLE)
    parser.add_argument("model", metavar="MODEL", type=argument, help=MEANING)
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        type=Path,
        help="the texts: .csv, .tsv, .jsonl, .txt (one text per line) or .conll (one word per line); - is standard input",
    )
    parser.add_argument(
        "--text",
        action="append",
        default=[],
        help="a text itself, instead of FILE; may be given again; for a model of pairs, each two are one",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="a new file, .jsonl, .csv or .tsv; one with the name that the GLUE server wants, such as CoLA.tsv, is a "
        "submission; default: print JSON lines",
    )
    parser.add_argument("--format", choices=SUFFIXES, help="format of the input, if its name does not tell")
    parser.add_argument("--skip_bad_rows", action="store_true", help="leave rows out that are no texts, and count them")
    parser.add_argument(
        "--columns",
        nargs="+",
        metavar="NAME",
        help="the text column of the file, or the two of a pair, if they are not named as in the task",
    )
    parser.add_argument("--task", type=argument, help="a task or a task YAML, for a model that does not name its task itself")
    parser.add_argument(
        "--calibrated", action="store_true", help="divide the logits by the temperature that was fitted on the dev splits"
    )
    parser.add_argument("--mixture", action="store_true", help="average the probabilities of the run's train.snapshots")
    parser.add_argument("--uncertainty", action="store_true", help="the same, with entropy and mutual information (nats)")
    parser.add_argument(
        "--abstain",
        type=float,
        metavar="RISK",
        help="the same, with null for answers too unsure to keep the share of wrong ones below this",
    )
    parser.add_argument(
        "--max_new_tokens",
        type=int,
        metavar="N",
        help="longest response of a model that writes text (default: half of the tokens that it was trained to read)",
    )
    add_plugin_argument(parser)
    parser.add_argument("--batch_size", type=int, default=32, metavar="N", help="texts per forward pass (%(default)s)")
    parsed = parser.parse_intermixed_args(arguments)
    parsed.mixture |= parsed.uncertainty or parsed.abstain is not None
    return parsed


@dataclass
class _Skipped:
    """The rows that were left out: how many of each kind, and the first of all."""

    counts: Counter[str] = field(default_factory=Counter)
    first: Problem | None = None

    def add(self, where: str, row: BadRow) -> None:
        self.counts[row.kind] += 1
        self.first = self.first or Problem(where, row.value, row.reason, "mend or delete the row")


def predict_file(parsed: argparse.Namespace) -> None:
    """Predicts batch by batch, and says at the end what was written where."""
    raise_if_any(_argument_problems(parsed))
    load_plugins(parsed.plugin)
    with waiting(f"looking for {parsed.model}"):
        folder = locate(parsed.model)
    if parsed.mixture:
        members_of(folder, parsed.model)
    if parsed.task:
        find_task(parsed.task)
    with importing():  # only now, as it takes seconds
        from tqdm import tqdm

        from mat_ds.evaluation.mixture import as_mixture
        from mat_ds.evaluation.predictor import load_predictor

    with waiting(f"loading {parsed.model}"):
        predictor = load_predictor(parsed.model, folder, parsed.task, parsed.columns, parsed.calibrated, parsed.max_new_tokens)
        if parsed.mixture:
            predictor = as_mixture(predictor, folder, parsed.uncertainty, parsed.abstain)
    skipped, count, kind = _Skipped(), 0, kind_of(predictor.spec)
    leaves_out = "--skip_bad_rows" if parsed.skip_bad_rows else "--abstain" if parsed.abstain else None
    if parsed.out and leaves_out and is_submission(parsed.out, kind):
        reason = f"a row that is left out would be missing in {parsed.out.name}, which the GLUE server counts"
        raise UserError(Problem(leaves_out, None, reason, "do without it, or write to another name"))
    rows = _asked(parsed, predictor.spec, skipped)
    form = answer_form(parsed.out, kind)
    output = open_aside(parsed.out) if parsed.out else nullcontext(sys.stdout)
    with output as out, tqdm(unit=" texts", disable=_silent(parsed.out)) as bar:
        while batch := list(islice(rows, parsed.batch_size)):
            if parsed.skip_bad_rows:
                batch = list(_with_tokens(batch, predictor, skipped))
            if batch:
                print("\n".join(form.lines(batch, predictor)), file=out, flush=True)
                count += len(batch)
                bar.update(len(batch))
            if has_lost_reader(out):  # as of `head`
                return
        if skipped.first and not count:
            raise UserError(skipped.first)
    if skipped.first:
        kinds = ", ".join(f"{number:,} {name}" for name, number in skipped.counts.items())
        show(
            f"left out {skipped.counts.total():,} rows ({kinds}); the first is {skipped.first.key}: {skipped.first.reason}",
            sys.stderr,
        )
    texts = "1 answer" if count == 1 else f"{count:,} answers"
    columns = f": {', '.join(form.columns)}" if form.columns else ""
    show(f"{texts} in {parsed.out}, {form.name}{columns}" if parsed.out else f"{texts} printed, {form.name}", sys.stderr)


def _asked(parsed: argparse.Namespace, spec: TaskSpec, skipped: _Skipped) -> Iterator[InputRow]:
    """The rows of the file, or the texts of the command line."""
    skip = skipped if parsed.skip_bad_rows else None
    if parsed.text:
        kind = kind_of(spec)
        if (given := kind.rows_of(parsed.text)) is None:
            reason = f"{spec.name} reads {kind.reads}, and {len(parsed.text)} texts are given"
            raise UserError(Problem("--text", None, reason, f"give {kind.texts_in_turn}"))
        return read_rows(((f"--text {i + 1}", row) for i, row in enumerate(given)), spec, skip)
    suffix = SUFFIXES[parsed.format] if parsed.format else parsed.file.suffix
    if suffix == SUFFIXES["text"]:
        if len(kind_of(spec).columns) > 1:
            reason = f"{spec.name} reads {kind_of(spec).reads}, but a .txt file has a text a line"
            raise UserError(Problem("FILE", str(parsed.file), reason, "pass a .tsv, .csv or .jsonl file"))
        spec = spec.model_copy(update={"text": (TEXT,)})
    elif suffix == SUFFIXES["conll"]:
        spec = spec.model_copy(update={"text": (TOKENS,)})
    return read_rows(read_lines(parsed.file, suffix), spec, skip)


def read_rows(rows: Iterable[tuple[str, Any]], spec: TaskSpec, skipped: _Skipped | None) -> Iterator[InputRow]:
    """Yields the texts in rows, which keep their numbers if others are skipped.

    Raises:
        UserError: at the first bad row, naming file and line, unless it may be skipped; or if the first row lacks a column.
    """
    kind = kind_of(spec)
    for number, (where, row) in enumerate(rows):
        missing = [column for column in kind.columns if column not in row] if isinstance(row, dict) else []
        if missing and (skipped is None or number == 0):
            raise UserError(lacking_columns(where, row, missing, "pass the names of the file's with --columns"))
        found = row if isinstance(row, BadRow) else make_example(spec, row, labelled=False)
        if not isinstance(found, BadRow):
            yield InputRow(number, carried(row, kind.columns, kind.answer_types), replace(found, where=where))
        elif skipped is None:
            raise UserError(Problem(where, found.value, found.reason, "mend or delete the row, or pass --skip_bad_rows"))
        else:
            skipped.add(where, found)


def _with_tokens(batch: list[InputRow], predictor: Any, skipped: _Skipped) -> Iterator[InputRow]:
    """The rows of a batch of which the tokenizer leaves something."""
    from mat_ds.tasks.tokens import REASON, tokenless

    examples, length = [asked.example for asked in batch], predictor.collate.max_length
    empty = set(tokenless(predictor.tokenizer, examples, length, kind_of(predictor.spec)))
    for i, asked in enumerate(batch):
        if i in empty:
            skipped.add(asked.example.where, BadRow(TOKENLESS, None, REASON))
        else:
            yield asked


def _argument_problems(parsed: argparse.Namespace) -> Iterable[Problem]:
    if parsed.text:
        if parsed.file is not None:
            both = f"and FILE {parsed.file} both say what to answer"
            yield Problem("--text", parsed.text[0], both, "leave one of the two out")
        elif parsed.format or parsed.columns:
            yield Problem("--text", parsed.text[0], "has no format and no columns", "leave --format and --columns out")
    elif parsed.file is None:
        yield Problem("FILE", None, "is missing", 'pass a file of texts, or --text "..."')
    elif parsed.file != STDIN and not parsed.file.is_file():
        yield Problem("FILE", str(parsed.file), "there is no such file", "pass the path of one, or - for standard input")
    elif parsed.format is None and parsed.file.suffix not in SUFFIXES.values():
        yield Problem("FILE", str(parsed.file), "the format is not clear from its name", f"pass --format {', '.join(SUFFIXES)}")
    if parsed.out:
        yield from answer_file_problems(parsed.out, parsed.file)
    if parsed.batch_size < 1:
        yield Problem("--batch_size", parsed.batch_size, "is not a positive number", "use at least 1")
    if parsed.max_new_tokens is not None and parsed.max_new_tokens < 1:
        yield Problem("--max_new_tokens", parsed.max_new_tokens, "is not a positive number", "use at least 1")
    if parsed.abstain is not None and not 0 < parsed.abstain < 1:
        yield Problem("--abstain", parsed.abstain, "is not a share of wrong answers", "use one between 0 and 1, such as 0.05")
    if parsed.columns and len(parsed.columns) > 2:
        yield Problem("--columns", " ".join(parsed.columns), "names more than a pair", "name one or two")


def _silent(out: Path | None) -> bool | None:
    """True to disable the progress bar, when answers are printed to a terminal; None lets tqdm decide."""
    return True if out is None and sys.stdout.isatty() else None
