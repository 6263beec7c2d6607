"""Makes a self-contained model: adapters merged, with card and description."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from mat_ds.artifacts.card import CARD, write_card
from mat_ds.artifacts.described import FILE, Description, write_description
from mat_ds.artifacts.exported import load_classifier
from mat_ds.artifacts.finished import Finished
from mat_ds.models.build import longest_input
from mat_ds.models.lora import ADAPTER, is_adapter
from mat_ds.models.pretrained import load_config, load_tokenizer, new_model


def whole_model(finished: Finished, target: Path) -> tuple[Path, Path | None]:
    """The run's model as one folder, and the folder of its adapters or None.

    Args:
        finished: the run; a missing card or description is added to its `model/`.
        target: where to write a copy, if `model/` has adapters.
    """
    folder = finished.folder.model
    if not (folder / CARD).exists():
        write_card(finished, folder)
    if not (folder / FILE).exists():
        write_description(folder, Description(finished.spec, finished.run.data.max_length))
    if is_adapter(folder):
        model, tokenizer = load_classifier(folder, torch.float32, torch.device("cpu"))
        model.merge_and_unload().save_pretrained(str(target))
        tokenizer.save_pretrained(str(target))
        shutil.copy2(folder / FILE, target / FILE)
        write_card(finished, target)
        return target, folder
    if (folder / ADAPTER).is_dir():
        shutil.copytree(folder, target, ignore=shutil.ignore_patterns(ADAPTER))
        return target, folder / ADAPTER
    return folder, None


def effective_length(folder: Path, max_length: int) -> int:
    """Maximum tokens of inputs: the run's, but no more than model and tokenizer accept."""
    with torch.device("meta"):
        model = new_model(load_config(str(folder), "model", adapters=True))
    return min(max_length, longest_input(model, load_tokenizer(str(folder), "model", adapters=True)))
