"""The rules of the house, checked: who may import what, and how long a page may be."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mat_ds"
SOURCES = sorted(PACKAGE.rglob("*.py"))


def importers(name):
    pattern = re.compile(rf"^\s*(import|from) {name}\b", re.M)
    return {str(path.relative_to(PACKAGE)) for path in SOURCES if pattern.search(path.read_text())}


def test_only_the_engine_knows_deepspeed():
    assert importers("deepspeed") and all(path.startswith("engine/") for path in importers("deepspeed"))


def test_only_tracking_knows_mlflow_and_only_lora_knows_peft():
    assert all(path.startswith("tracking/") for path in importers("mlflow"))
    assert importers("peft") <= {"models/lora.py"}


def test_a_method_names_no_rank_dtype_or_device():
    for path in (PACKAGE / "methods").glob("*.py"):
        if path.stem not in ("base", "ops", "__init__"):
            code = re.sub(r'""".*?"""', "", path.read_text(), flags=re.S)
            for word in ("deepspeed", "rank", "dtype", "device", "cuda", "float16", "bfloat16", "distributed"):
                assert not re.search(rf"\b{word}\b", code), (path.name, word)


def test_no_file_is_long_or_named_utils():
    for path in (*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "launch").glob("*.py")):
        assert len(path.read_text().splitlines()) <= 250, path
        assert "utils" not in path.stem, path


def test_doors_are_short():
    for path in (ROOT / "launch").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 15, path
