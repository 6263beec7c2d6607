"""Examples and their tokens in memory-mapped Arrow files, written once and shared by all processes."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mat_ds.errors import Problem, UserError
from mat_ds.tasks.arrow import open_stream
from mat_ds.tasks.example import Example
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.kinds.base import Kind
from mat_ds.tasks.loss_columns import LOSS_COLUMNS, PROBABILITIES, columns_of, loss_fault, loss_types
from mat_ds.tasks.sources import saved_files
from mat_ds.tasks.spec import TaskSpec

# Name of the type of labels that are stored as JSON.
JSON = "json"
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

    tables, kind, of_the_loss = [], kind_of(spec), columns_of(examples)
    for start in tqdm(range(0, len(examples), BATCH), desc=path.name, unit="batch", leave=False):
        some = examples[start : start + BATCH]
        inputs = kind.encode(tokenizer, some, max_length) if kind.stores_tokens else {}
        labels: list[Any] = [example.label for example in some]
        if kind.stored_type == JSON:
            labels = [None if label is None else json.dumps(label) for label in labels]
        columns = {"texts": [list(example.texts) for example in some], "label": labels}
        columns |= {name: numbers for name, numbers in inputs.items() if name != "attention_mask"}
        kinds = {name: pyarrow.list_(pyarrow.int32()) for name in columns}
        kinds |= {"texts": pyarrow.list_(pyarrow.string()), "label": _label_type(kind)}
        columns |= {name: [getattr(example, name) for example in some] for name in of_the_loss}
        kinds |= {name: loss_types()[name] for name in of_the_loss}
        tables.append(pyarrow.table(columns, schema=pyarrow.schema(kinds)))
    datasets.disable_progress_bars()
    datasets.Dataset(datasets.table.InMemoryTable(pyarrow.concat_tables(tables))).save_to_disk(str(path))


def _label_type(kind: Kind) -> Any:
    """The pyarrow type of labels in a table."""
    import pyarrow

    if kind.stored_type == JSON:
        return pyarrow.string()
    if found := re.fullmatch(r"list<(.+)>", kind.stored_type):
        return pyarrow.list_(getattr(pyarrow, found[1])())
    return getattr(pyarrow, kind.stored_type)()


def _as_tuples(value: Any) -> Any:
    """A label as it was made: its lists, as Arrow and JSON have them, become tuples."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


class StoredExamples(Sequence[Example]):
    """Examples that are read from their files on access.

    Args:
        table: a pyarrow table with `texts`, `label` and one column per model input.
        with_tokens: whether examples carry their tokens.
        in_json: whether labels are stored as JSON.
    """

    def __init__(self, table: Any, with_tokens: bool, in_json: bool = False):
        self._in_json = in_json
        self._texts, self._labels = table.column("texts"), table.column("label")
        there = [name for name in table.column_names if name not in ("texts", "label")]
        self._of_the_loss = {name: table.column(name) for name in there if name in LOSS_COLUMNS}
        inputs = [name for name in there if name not in LOSS_COLUMNS] if with_tokens else []
        self._inputs = {name: table.column(name) for name in inputs}

    def __len__(self) -> int:
        return len(self._labels)

    def without_texts(self) -> Iterator[Example]:
        """Yields the examples with nothing but label, weight and probabilities, which takes far less time than reading all."""
        for start in range(0, len(self), BATCH):
            here = slice(start, start + BATCH)
            labels = self._labels[here].to_pylist()
            more = {name: column[here].to_pylist() for name, column in self._of_the_loss.items()}
            for i, label in enumerate(labels):
                yield Example((), self._as_label(label), **{name: _as_tuples(column[i]) for name, column in more.items()})

    @property
    def soft(self) -> bool:
        """Whether some labels are given as probabilities."""
        return PROBABILITIES in self._of_the_loss

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
        more = {name: _as_tuples(column[row].as_py()) for name, column in self._of_the_loss.items()}
        return Example(tuple(self._texts[row].as_py()), self._as_label(self._labels[row].as_py()), tokens or None, **more)

    def _as_label(self, stored: Any) -> Any:
        """The label that a value of the table stands for."""
        return _as_tuples(json.loads(stored) if self._in_json and stored is not None else stored)


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
    everything = pyarrow.concat_tables([tables[path] for path in order]).slice(0, limit)
    return StoredExamples(everything, with_tokens, kind_of(spec).stored_type == JSON)


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
    inputs = [name for name in table.column_names if name not in ("texts", "label", *LOSS_COLUMNS)]
    lists = all(types.is_list(kinds[name]) and types.is_int32(kinds[name].value_type) for name in inputs)
    texts = "texts" in kinds and types.is_list(kinds["texts"]) and types.is_string(kinds["texts"].value_type)
    kind = kind_of(spec)
    lists &= ("input_ids" in inputs) == kind.stores_tokens and set(inputs) <= {*known, *kind.own_inputs}
    if len(kinds) != table.num_columns or not (lists and texts and "label" in kinds and kinds["label"] == _label_type(kind)):
        return f"has the columns {', '.join(f'{name} ({kind})' for name, kind in kinds.items())[:200]}"
    for name in ("texts", *inputs):
        if table[name].null_count or pc.list_flatten(table[name]).null_count:
            return f"has rows without {name}"
    lengths = [pc.list_value_length(table[name]) for name in inputs]
    if any(pc.any(pc.not_equal(length, lengths[0])).as_py() for length in lengths[1:]):
        return f"has rows with more of one model input than of another: {', '.join(inputs)}"
    if any(pc.any(pc.equal(length, 0)).as_py() for length in lengths):
        return "has rows without tokens"
    if any(pc.any(pc.less(pc.list_flatten(table[name]), 0)).as_py() for name in inputs):
        return "has negative tokens"
    for name in kind.own_inputs:  # numbers of texts, from 1
        import numpy as np

        if name not in inputs:
            return f"has no {name}"
        texts_of_each = np.repeat(pc.list_value_length(table["texts"]).to_numpy(), lengths[0].to_numpy())
        if (pc.list_flatten(table[name]).to_numpy() > texts_of_each).any():
            return f"has {name} of which there is no text"
    return loss_fault(table, kind.outputs) or _label_fault(table, kind, labelled)


def _label_fault(table: Any, kind: Kind, labelled: bool) -> str | None:
    """What is wrong with the texts and labels of a table whose columns are right; None if nothing is."""
    import pyarrow.compute as pc
    from pyarrow import types

    labels, texts = table["label"], pc.list_value_length(table["texts"])
    if (count := kind.texts_per_example) and pc.any(pc.not_equal(texts, count)).as_py():
        return f"has rows of other than {count} texts"
    if labelled and labels.null_count:
        return "has rows without a label"
    if kind.label_per_text and pc.any(pc.not_equal(texts, pc.list_value_length(labels))).as_py():
        return "has rows with more texts than labels, or fewer"
    values = pc.list_flatten(labels) if types.is_list(labels.type) else labels
    if types.is_list(labels.type) and values.null_count:
        return "has labels that lack an entry"
    if types.is_string(labels.type):
        return next((fault for label in labels if label.is_valid and (fault := _text_fault(kind, label.as_py()))), None)
    if (before := kind.texts_before_choices) is not None:
        choices = pc.subtract(texts, before)
        if pc.any(pc.or_(pc.less(choices, 2), pc.greater(choices, int(kind.bounds[1]) + 1))).as_py():
            return "has rows with too few choices, or too many"
        if pc.any(pc.greater_equal(labels, choices)).as_py():
            return "has labels of choices that are not there"
    low, high = kind.bounds
    inside = pc.all(pc.and_(pc.greater_equal(values, low), pc.less_equal(values, high))).as_py()
    return None if inside is not False or not labelled else f"has labels outside [{low:g}, {high:g}]"


def _text_fault(kind: Kind, stored: str) -> str | None:
    """What is wrong with a label that is stored as a text; None if nothing is."""
    try:
        label = _as_tuples(json.loads(stored)) if kind.stored_type == JSON else stored
        return None if kind.is_label(label) else f"has a label that is none: {stored[:80]}"
    except (ValueError, RecursionError):
        return f"has a label that is not JSON: {stored[:80]}"
