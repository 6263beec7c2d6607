"""Damages a Parquet and an Arrow file in a given number of ways and reads each: `main` returns 0 if all were read or refused.
It runs in a separate process, since a crash in C++ ends the process."""

import json
import random
import sys
import tempfile
from pathlib import Path

import pyarrow
import pyarrow.parquet

from mat_ds.errors import UserError
from mat_ds.tasks.examples import load_task_data
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.registry import TASKS


def damaged(whole, drawn):
    content = bytearray(whole)
    for _ in range(drawn.choice([1, 1, 2, 5])):
        content[drawn.randrange(len(content))] = drawn.choice([0, 255, drawn.randrange(256), drawn.choice(content)])
    return bytes(content[: drawn.randrange(len(content))] if drawn.random() < 0.1 else content)


def files(folder):
    """The path of each kind of file."""
    table = pyarrow.table(
        {"sentence": [f"text {i}" for i in range(50)], "label": [i % 2 for i in range(50)], "more": [[i] for i in range(50)]}
    )
    (folder / "a" / "sst2").mkdir(parents=True)
    for compression in ("snappy", "none"):
        pyarrow.parquet.write_table(table, folder / "a" / "sst2" / "train.parquet", compression=compression)
        yield folder / "a", folder / "a" / "sst2" / "train.parquet"
    saved = folder / "b" / "sst2" / "train"
    saved.mkdir(parents=True)
    with pyarrow.ipc.new_stream(saved / "data.arrow", table.schema) as stream:
        stream.write_table(table)
    (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    (saved / "dataset_info.json").write_text(json.dumps({"features": {}}))
    yield folder / "b", saved / "data.arrow"


def main():
    count, drawn = int(sys.argv[1]), random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        for root, file in files(Path(name)):
            (root / "sst2" / "validation.jsonl").write_text('{"sentence": "a", "label": 1}\n')
            whole, refused = file.read_bytes(), 0
            for _ in range(count):
                file.write_bytes(damaged(whole, drawn))
                try:
                    load_task_data(TASKS["sst2"], DataConfig(path=str(root), bad_rows="skip"))
                except UserError:
                    refused += 1
            file.write_bytes(whole)
            assert len(load_task_data(TASKS["sst2"], DataConfig(path=str(root))).train) == 50
            assert 0 < refused < count, "or the damage is not what it should be"
    return 0


if __name__ == "__main__":
    sys.exit(main())
