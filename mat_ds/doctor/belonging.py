"""Checks whether model, tokenizer and task fit together. The weights are not loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mat_ds.doctor.rows import Row, from_problem, warned
from mat_ds.errors import Problem, UserError, collect_problems

if TYPE_CHECKING:
    from mat_ds.runs.options import RunConfig

# A larger model is not built: weights that its files lack would be drawn, which may take more memory than a login node has.
MOST_PARAMETERS = 1_000_000_000


def check_belonging(run: RunConfig, folder: Path, parameters: int, first_rows: int) -> Iterator[Row]:
    """Yields a row for each reason why training would refuse the model, or change it.

    Args:
        run: the options.
        folder: the model's folder, which has all files.
        parameters: number of its parameters.
        first_rows: how many rows of each split are searched for tokens that have no embedding.
    """
    from mat_ds.models.build import build_model, build_tokenizer, longest_input
    from mat_ds.models.unread import weight_files
    from mat_ds.models.vocabulary import highest, rows_of, vocabulary_problems
    from mat_ds.tasks.examples import load_task_data
    from mat_ds.tasks.registry import find_task

    found: list[Problem] = []
    model = run.model.model_copy(update={"name": str(folder), "lora": None})
    tokenizer = collect_problems(found, build_tokenizer, model, ())
    spec = collect_problems([], find_task, run.task)  # `check_data` reports what is wrong with the task
    built = None
    if tokenizer and spec and parameters < MOST_PARAMETERS and weight_files(str(folder)):
        built = collect_problems(found, build_model, model, spec, tokenizer, 0, True)
    yield from map(from_problem, found)
    if not (built and spec):
        return
    if built.head:
        yield warned("labels", built.head, "see that the task's labels mean what the model's did")
    if highest(tokenizer) >= (rows := rows_of(built.module)):
        data = run.data.model_copy(update={"train_limit": first_rows, "eval_limit": first_rows})
        problems: list[Problem] = []
        try:
            read = load_task_data(spec, data) if spec.generate or data.path else None
        except UserError:
            read = None
        if read:
            length = min(data.max_length, longest_input(built.module, tokenizer))
            splits = (read.train, *read.dev.values(), *read.test.values())
            problems = list(vocabulary_problems("model.name", run.model.name, built.module, tokenizer, splits, length))
        yield from map(from_problem, problems)
        if not problems:
            yield warned(
                "tokenizer",
                f"it numbers tokens up to {highest(tokenizer)}, and the model has embeddings for {rows}: "
                "a text with one of the others is refused",
                "call model.resize_token_embeddings(len(tokenizer)) and save both",
            )
