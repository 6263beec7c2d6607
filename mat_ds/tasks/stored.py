"""Examples beside their tokens in memory-mapped Arrow files: written once, read by any number of processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mat_ds.errors import Problem, UserError
from mat_ds.tasks.loader import tokenise
from mat_ds.tasks.rows import Example

# Examples tokenised at a time.
BATCH = 1000


def store_examples(path: Path, examples: Sequence[Example], tokenizer: Any, max_length: int, regression: bool) -> None:
    """Writes texts, labels and unpadded model inputs to the folder `path`; the attention mask, all ones, is left to padding.

    Args:
        examples: at least one.
        regression: whether labels are real scores.
    """
    import datasets
    import pyarrow

    tables = []
    for start in tqdm(range(0, len(examples), BATCH), desc=path.name, unit="batch", leave=False):
        some = examples[start : start + BATCH]
        inputs = tokenise(tokenizer, some, max_length)
        columns = {"texts": [list(example.texts) for example in some], "label": [example.label for example in some]}
        columns |= {name: numbers for name, numbers in inputs.items() if name != "attention_mask"}
        kinds = {name: pyarrow.list_(pyarrow.int32()) for name in columns}
        kinds |= {"texts": pyarrow.list_(pyarrow.string()), "label": pyarrow.float64() if regression else pyarrow.int64()}
        tables.append(pyarrow.table(columns, schema=pyarrow.schema(kinds)))
    datasets.disable_progress_bars()
    datasets.Dataset(datasets.table.InMemoryTable(pyarrow.concat_tables(tables))).save_to_disk(str(path))


class StoredExamples(Sequence[Example]):
    """Examples that stay in their files until one is asked for.

    Args:
        table: a pyarrow table of `texts`, `label` and a column for each model input.
        with_tokens: whether the examples bring their tokens along.
    """

    def __init__(self, table: Any, with_tokens: bool):
        self._texts, self._labels = table.column("texts"), table.column("label")
        inputs = [name for name in table.column_names if name not in ("texts", "label")] if with_tokens else []
        self._inputs = {name: table.column(name) for name in inputs}

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        tokens = {name: column[row].as_py() for name, column in self._inputs.items()}
        return Example(tuple(self._texts[row].as_py()), self._labels[row].as_py(), tokens or None)


def stored_examples(paths: Iterable[Path], limit: int | None, with_tokens: bool) -> StoredExamples:
    """The first `limit` of the examples that were stored in `paths`, one folder after the other, which may name one again."""
    import datasets
    import pyarrow

    paths = list(paths)
    try:
        tables = {path: datasets.load_from_disk(str(path)).data.table for path in dict.fromkeys(paths)}
    except Exception as error:  # a damaged folder can fail anywhere in datasets and pyarrow
        raise UserError(Problem("data.path", None, f"what was prepared cannot be loaded: {error}",
                                "see what is damaged with `mat-ds prepare <folder> --verify`")) from None  # fmt: skip
    return StoredExamples(pyarrow.concat_tables([tables[path] for path in paths]).slice(0, limit), with_tokens)
