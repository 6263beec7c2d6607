"""Benchmarks in the form in which their authors publish them, where it is not that of the hub.

- AdvGLUE (Wang et al. 2021): one file for all tasks, `dev_ann.json` or `dev.json`, `{"sst2": [{...}, ...], "qqp": ..., ...}`.
- ANLI (Nie et al. 2020): a folder for each round, `R1/dev.jsonl`, with `context` for the premise and the labels e, n and c.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mat_ds.tasks.sources import Source
from mat_ds.tasks.spec import TaskSpec

ADV_GLUE, ANLI = "AI-Secure/adv_glue", "facebook/anli"
# The key of each task in AdvGLUE's file, by its configuration on the hub.
MEMBERS = {
    "adv_sst2": "sst2",
    "adv_qqp": "qqp",
    "adv_mnli": "mnli",
    "adv_mnli_mismatched": "mnli-mm",
    "adv_qnli": "qnli",
    "adv_rte": "rte",
}
FILES = ("dev_ann.json", "dev.json")
# Where the files stand under data.path: there itself, or in a folder, such as that of the published archive.
ADV_GLUE_FOLDERS, ANLI_FOLDERS = ("", "adv_glue", "dev"), ("", "anli", "anli_v1.0")
ANLI_SPLIT = re.compile(r"(train|dev|test)_r([123])")
ANLI_LABELS = {"e": "entailment", "n": "neutral", "c": "contradiction"}


def member_of(spec: TaskSpec) -> str | None:
    """The key of a task in AdvGLUE's file; None if it is not of AdvGLUE."""
    return MEMBERS.get(spec.hub_config or "") if spec.hub == ADV_GLUE else None


def published_sources(spec: TaskSpec, root: Path, split: str) -> Iterator[Source]:
    """Yields the published files that hold a split of a task; `root` is `data.path`."""
    found: list[Path] = []
    if member_of(spec) and split == "validation":
        found = [root / folder / name for folder in ADV_GLUE_FOLDERS for name in FILES]
    elif spec.hub == ANLI and (named := ANLI_SPLIT.fullmatch(split)):
        found = [root / folder / f"R{named[2]}" / f"{named[1]}.jsonl" for folder in ANLI_FOLDERS]
    yield from (Source(str(path), path.suffix, (path,)) for path in found if path.exists())


def as_on_the_hub(spec: TaskSpec, row: Any) -> Any:
    """A row of a task with the hub's columns and label names."""
    ours = spec.hub == ANLI and "premise" in spec.text
    if not ours or not isinstance(row, Mapping) or "context" not in row or "premise" in row:
        return row
    label = row.get("label")
    return {**row, "premise": row["context"], "label": ANLI_LABELS.get(label, label) if isinstance(label, str) else label}
