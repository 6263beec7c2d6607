"""Hostile data: a small file takes neither gigabytes nor minutes, nothing is fetched, and nothing waits."""

import json
import os
import socket

import pyarrow
import pyarrow.parquet
import pytest

from tests.tasks.test_bad_rows import lines, write

MIB = 2**20
# Limits for each file; they allow for busy cores.
SECONDS, BYTES = 30, 500 * MIB
ADDRESS = "http://127.0.0.1:9/x.png"
UNFOLDS, BROKEN = "decompresses to more than", "cannot be read"


def dictionary(text, count):
    return pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * count, pyarrow.int32()), [text])


def parquet(path, sentence, label=None, **options):
    label = pyarrow.array([1] * len(sentence), pyarrow.int8()) if label is None else label
    pyarrow.parquet.write_table(pyarrow.table({"sentence": sentence, "label": label}), path, **options)


def saved(folder, table, features=None, compression=None):
    """Writes a table as `save_to_disk` does."""
    folder.mkdir()
    options = pyarrow.ipc.IpcWriteOptions(compression=compression)
    with pyarrow.ipc.new_stream(folder / "data.arrow", table.schema, options=options) as stream:
        stream.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features or {}}))


def sparse(path, size, start=b"", end=b""):
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)
        file.seek(0, os.SEEK_END)
        file.write(end)


def many_row_groups(path):
    schema = pyarrow.schema({"sentence": pyarrow.string(), "label": pyarrow.int8()})
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
        group = pyarrow.table({"sentence": ["x" * 99_000] * 100, "label": pyarrow.array([1] * 100, pyarrow.int8())})
        for _ in range(12):
            writer.write_table(group)


COLUMN = pyarrow.nulls(10**9)
BOMBS = {
    "one_text_in_many_rows": (lambda f: parquet(f / "train.parquet", dictionary("x" * 50_000, 100_000)), UNFOLDS),
    "one_letter_in_very_many_rows": (lambda f: parquet(f / "train.parquet", dictionary("a", 9_000_000)), UNFOLDS),
    "rows_of_nothing": (lambda f: parquet(f / "train.parquet", pyarrow.nulls(9_000_000, pyarrow.string())), UNFOLDS),
    "compressed_pages": (lambda f: many_row_groups(f / "train.parquet"), UNFOLDS),
    "one_long_text": (
        lambda f: parquet(f / "train.parquet", ["x" * 99 * MIB], compression="zstd", use_dictionary=False), UNFOLDS),
    "another_column": (lambda f: pyarrow.parquet.write_table(
        pyarrow.table({"sentence": ["a"], "label": [1], "more": ["x" * 99 * MIB]}), f / "train.parquet", compression="zstd",
        use_dictionary=False), UNFOLDS),
    "null_column": (lambda f: saved(f / "train", pyarrow.table({"sentence": COLUMN, "label": COLUMN})), UNFOLDS),
    "compressed_arrow": (lambda f: saved(f / "train", pyarrow.table({"sentence": ["x" * MIB], "label": [1]}), None, "zstd"),
                         "is a compressed Arrow file"),
    "compressed_dictionary": (lambda f: saved(f / "train", pyarrow.table(
        {"sentence": dictionary("x" * MIB, 1), "label": [1]}), None, "lz4"), "is a compressed Arrow file"),
    "arrow_dictionary": (lambda f: saved(f / "train", pyarrow.table(
        {"sentence": dictionary("x" * 90_000, 100_000), "label": [1] * 100_000})), UNFOLDS),
    "line_without_end": (lambda f: sparse(f / "train.jsonl", 270 * MIB), "is a line of 4,000,000 characters or more"),
    "record_without_end": (lambda f: sparse(f / "train.csv", 270 * MIB, b"sentence,label\n"), "has more than 100,000 char"),
    "header_without_end": (lambda f: sparse(f / "train.tsv", 270 * MIB), "the header has more than 100,000 characters"),
    "array_without_end": (lambda f: sparse(f / "train.json", 270 * MIB, b"["), "is one JSON value of more than"),
    "array_of_arrays": (lambda f: (f / "train.json").write_text("[" + "[]," * 50_000 + "[]]"), "is not a JSON object"),
    "nested_arrays": (lambda f: (f / "train.jsonl").write_text('{"label":' + "[" * 3_000_000), "is not JSON"),
    "nested_just_enough": (lambda f: (f / "train.jsonl").write_text(
        "".join('{"sentence": "a", "label": ' + "[" * n + "]" * n + "}\n" for n in range(900, 1000))), "more rows are wrong"),
    "many_columns": (lambda f: (f / "train.csv").write_text("a," * 40_000 + "a\n" + "1," * 40_000 + "1\n"), "have one name"),
    "quotes_that_open": (lambda f: (f / "train.csv").write_text("sentence,label\n" + 'x","\n' * 100_000), "cannot be parsed"),
    "quotes_that_close": (lambda f: (f / "train.csv").write_text("sentence,label\n" + '"a"",\n' * 50_000), "cannot be parsed"),
    "quotes_alone": (lambda f: (f / "train.csv").write_text("sentence,label\n" + ',"\n' * 20_001), "sentence is blank"),
    "empty_lines": (lambda f: (f / "train.csv").write_text("sentence,label\n" * 2 + "\r" * 200_000), "the label is none"),
}  # fmt: skip


def test_a_small_file_takes_neither_much_memory_nor_much_time(surroundings):
    folders = []
    for name, (build, _) in BOMBS.items():
        folders.append(surroundings.inside / name)
        write(folders[-1], "sst2/validation.jsonl", lines({"sentence": "a", "label": 1}))
        build(folders[-1] / "sst2")
    told = surroundings.run(*folders, code=0, module="tests.hostile.reading").stdout
    found = [json.loads(line) for line in told.splitlines()]
    assert [result["folder"] for result in found] == list(BOMBS)
    for result in found:
        expected = BOMBS[result["folder"]][1]
        assert expected == result["said"] or (isinstance(expected, str) and expected in result["said"]), result
        assert result["seconds"] < SECONDS and result["bytes"] < BYTES and len(result["said"]) < 5000, result


def picture(kind, path):
    """A table with two sentences and a picture in another file, nested as `kind` says."""
    value = {"bytes": None, "path": path}
    value = {"plain": value, "list": [value], "struct": {"inner": value}}[kind]
    return pyarrow.table({"sentence": ["a", "b"], "image": [value] * 2, "label": [0, 1]})


def features(kind, media):
    there = {"_type": media}
    there = {"plain": there, "list": {"feature": there, "_type": "List"}, "struct": {"inner": there}}[kind]
    return {"sentence": {"dtype": "string", "_type": "Value"}, "image": there, "label": {"dtype": "int64", "_type": "Value"}}


@pytest.mark.parametrize("offline", ["0", "1"])
def test_paths_in_a_column_are_not_followed(surroundings, offline):
    secret = surroundings.outside / "precious.txt"
    folders = []
    for media in ("Image", "Audio", "Video", "Pdf", "NoSuchThing"):
        for kind in ("plain", "list", "struct"):
            for path in (ADDRESS, str(secret), "hf://datasets/a/b/c.png"):
                folder = surroundings.inside / str(len(folders))
                write(folder, "sst2/validation.jsonl", lines({"sentence": "a", "label": 1}))
                table, described = picture(kind, path), features(kind, media)
                if len(folders) % 2:
                    saved(folder / "sst2" / "train", table, described)
                else:
                    metadata = {"huggingface": json.dumps({"info": {"features": described}})}
                    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), folder / "sst2" / "train.parquet")
                folders.append(folder)
    done = surroundings.run(*folders, code=0, module="tests.hostile.reading", HF_HUB_OFFLINE=offline)
    assert [json.loads(line)["said"] for line in done.stdout.splitlines()] == [[0, 1]] * len(folders)


def test_a_text_column_of_pictures_is_refused(surroundings):
    folder = surroundings.inside / "data"
    write(folder, "sst2/validation.jsonl", lines({"sentence": "a", "label": 1}))
    table = pyarrow.table({"sentence": [{"bytes": None, "path": ADDRESS}], "label": [0]})
    saved(folder / "sst2" / "train", table, {"sentence": {"_type": "Image"}})
    done = surroundings.run(folder, code=0, module="tests.hostile.reading")
    assert ", not texts" in json.loads(done.stdout)["said"]


def irregular(folder, kind, name):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        there = os.getcwd()
        os.chdir(path.parent)  # the names of sockets must be short
        socket.socket(socket.AF_UNIX).bind(path.name)
        os.chdir(there)
    else:
        path.symlink_to({"device": "/dev/zero", "terminal": "/dev/tty", "loop": path.name, "nowhere": "gone"}[kind])


def test_reading_pipes_and_sockets_does_not_wait(surroundings):
    folders = []
    for name in (
        "train.jsonl",
        "train.json",
        "train.csv",
        "train.parquet",
        "train/state.json",
        "train/data.arrow",
        "train/dataset_info.json",
        "dataset_dict.json",
    ):
        for kind in ("pipe", "folder", "socket", "device", "terminal", "loop", "nowhere"):
            folders.append(surroundings.inside / f"{name.replace('/', ' ')} {kind}")
            write(folders[-1], "sst2/validation.jsonl", lines({"sentence": "a", "label": 1}))
            if name.startswith("train/"):
                saved(folders[-1] / "sst2" / "train", pyarrow.table({"sentence": ["a"], "label": [1]}))
            irregular(folders[-1] / "sst2", kind, name)
    done = surroundings.run(*folders, code=0, module="tests.hostile.reading", timeout=100)
    assert len(done.stdout.splitlines()) == len(folders)
    for line in done.stdout.splitlines():
        assert "1 problem" in json.loads(line)["said"] and "fix: " in json.loads(line)["said"], line


STATES = [
    '{"_data_files": [{"filename": "../../../../outside/precious.txt"}]}',
    '{"_data_files": [{"filename": "OUTSIDE/precious.txt"}]}',
    '{"_data_files": [{"filename": 7}]}', '{"_data_files": ["data.arrow"]}', '{"_data_files": {}}', "{}", "[]", "", "[" * 10**5,
    '{"_data_files": [{"filename": ".."}]}', '{"_data_files": [{"filename": "missing.arrow"}]}', '{"_data_files": []}', "\x00",
    '{"_data_files": [{"filename": "data.arrow"}], "_indices_data_files": [{"filename": "i.arrow"}]}', "1" * 5000,
]  # fmt: skip


def test_a_saved_split_is_read_only_from_its_folder(surroundings):
    folders = [surroundings.inside / str(i) for i in range(len(STATES))]
    for folder, state in zip(folders, STATES, strict=True):
        write(folder, "sst2/validation.jsonl", lines({"sentence": "a", "label": 1}))
        saved(folder / "sst2" / "train", pyarrow.table({"sentence": ["a"], "label": [1]}))
        (folder / "sst2" / "train" / "state.json").write_text(state.replace("OUTSIDE", str(surroundings.outside)))
    done = surroundings.run(*folders, code=0, module="tests.hostile.reading")
    assert len(done.stdout.splitlines()) == len(STATES)
    for line in done.stdout.splitlines():
        assert "1 problem" in json.loads(line)["said"], line
