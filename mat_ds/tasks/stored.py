"""Examples and their tokens in memory-mapped Arrow files, written once and shared by all processes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mat_ds.errors import Problem, UserError
from mat_ds.tasks.arrow import open_stream
from mat_ds.tasks.example import Example
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.sources import saved_files
from mat_ds.tasks.spec import TaskSpec

# Examples tokenised at a time.
BATCH = 1000


def store_examples(path: Path, examples: Sequence[Example], tokenizer: Any, max_length: int, spec: TaskSpec) -> None:
    """Writes texts, labels and unpadded model inputs to a folder. The attention mask (all ones) is left to padding.

    Args:
        examples: at least one.
        spec: their task.
    """
    import datasets
    import pyarrow

    tables = []
    for start in tqdm(range(0, len(examples), BATCH), desc=path.name, unit="batch", leave=False):
        some = examples[start : start + BATCH]
        inputs = kind_of(spec).encode(tokenizer, some, max_length)
        columns = {"texts": [list(example.texts) for example in some], "label": [example.label for example in some]}
        columns |= {name: numbers for name, numbers in inputs.items() if name != "attention_mask"}
        kinds = {name: pyarrow.list_(pyarrow.int32()) for name in columns}
        kinds |= {"texts": pyarrow.list_(pyarrow.string()), "label": getattr(pyarrow, kind_of(spec).stored_type)()}
        tables.append(pyarrow.table(columns, schema=pyarrow.schema(kinds)))
    datasets.disable_progress_bars()
    datasets.Dataset(datasets.table.InMemoryTable(pyarrow.concat_tables(tables))).save_to_disk(str(path))


class StoredExamples(Sequence[Example]):
    """Examples that are read from their files on access.

    Args:
        table: a pyarrow table with `texts`, `label` and one column per model input.
        with_tokens: whether examples carry their tokens.
    """

    def __init__(self, table: Any, with_tokens: bool):
        self._texts, self._labels = table.column("texts"), table.column("label")
        inputs = [name for name in table.column_names if name not in ("texts", "label")] if with_tokens else []
        self._inputs = {name: table.column(name) for name in inputs}

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def tokenised(self) -> bool:
        """Whether the examples carry their tokens."""
        return bool(self._inputs)

    def highest(self, name: str) -> int:
        """The highest number in a model input; -1 if it is empty or missing."""
        import pyarrow.compute as pc

        found = pc.max(pc.list_flatten(self._inputs[name])).as_py() if name in self._inputs else None
        return -1 if found is None else int(found)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        tokens = {name: column[row].as_py() for name, column in self._inputs.items()}
        return Example(tuple(self._texts[row].as_py()), self._labels[row].as_py(), tokens or None)


def stored_examples(
    paths: Iterable[Path],
    limit: int | None,
    with_tokens: bool,
    spec: TaskSpec,
    labelled: bool = True,
    inputs: Collection[str] = ("input_ids", "token_type_ids"),
) -> StoredExamples:
    """The first `limit` examples stored in `paths`, in order; a path given several times is loaded once and repeated.

    Args:
        spec: the task of the examples.
        labelled: whether every example must have a label.
        inputs: names of the model inputs that are allowed.

    Raises:
        UserError: if they cannot be read, or are not examples of the task.
    """
    import pyarrow

    order, tables = list(paths), {}
    for path in dict.fromkeys(order):
        try:
            table = _load_table(path)
            wrong = _fault(table, spec, labelled, inputs)
        except UserError:
            raise
        except Exception as error:  # a damaged file can fail anywhere in pyarrow
            wrong = f"cannot be loaded: {error}"
        if wrong:
            fix = "see what is damaged with `mat-ds prepare <folder> --verify`, or prepare it again"
            raise UserError(Problem(str(path), None, f"the prepared data {wrong}", fix))
        tables[path] = table
    return StoredExamples(pyarrow.concat_tables([tables[path] for path in order]).slice(0, limit), with_tokens)


def _load_table(path: Path) -> Any:
    import pyarrow

    tables = []
    for file in saved_files(path):
        schema, batches = open_stream(file)
        tables.append(pyarrow.Table.from_batches(batches(schema.names), schema=schema.remove_metadata()))
    return pyarrow.concat_tables(tables)


def _fault(table: Any, spec: TaskSpec, labelled: bool, known: Collection[str]) -> str | None:
    """Why a table does not hold examples of the task; None if it does."""
    import pyarrow.compute as pc
    from pyarrow import types

    kinds = {field.name: field.type for field in table.schema}
    inputs = [name for name in table.column_names if name not in ("texts", "label")]
    lists = all(types.is_list(kinds[name]) and types.is_int32(kinds[name].value_type) for name in inputs)
    texts = "texts" in kinds and types.is_list(kinds["texts"]) and types.is_string(kinds["texts"].value_type)
    lists &= "input_ids" in inputs and set(inputs) <= set(known)
    kind = kind_of(spec)
    if len(kinds) != table.num_columns or not (lists and texts and "label" in kinds and kinds["label"] == kind.stored_type):
        return f"has the columns {', '.join(f'{name} ({kind})' for name, kind in kinds.items())[:200]}"
    for name in ("texts", *inputs):
        if table[name].null_count or pc.list_flatten(table[name]).null_count:
            return f"has rows without {name}"
    if pc.any(pc.not_equal(pc.list_value_length(table["texts"]), len(spec.text))).as_py():
        return f"has rows of other than {len(spec.text)} texts"
    lengths = [pc.list_value_length(table[name]) for name in inputs]
    if any(pc.any(pc.not_equal(length, lengths[0])).as_py() for length in lengths[1:]):
        return f"has rows with more of one model input than of another: {', '.join(inputs)}"
    if any(pc.any(pc.equal(length, 0)).as_py() for length in lengths):
        return "has rows without tokens"
    if any(pc.any(pc.less(pc.list_flatten(table[name]), 0)).as_py() for name in inputs):
        return "has negative tokens"
    low, high = kind.bounds
    inside = pc.all(pc.and_(pc.greater_equal(table["label"], low), pc.less_equal(table["label"], high)))
    if labelled and table.num_rows and (table["label"].null_count or not inside.as_py()):
        return f"has labels outside [{low:g}, {high:g}]"
    return None
