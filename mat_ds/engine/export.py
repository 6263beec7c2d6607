"""What was trained, in fp32 out of its shards, as a folder that plain transformers (and peft) load."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mat_ds.engine.engine import Engine
from mat_ds.methods.base import Fold
from mat_ds.models.options import LoraConfig
from mat_ds.ranks.collectives import on_rank_zero, own_rank
from mat_ds.storage.disk import nobody_else, write_json
from mat_ds.storage.folders import write_folder


@torch.no_grad()
def gather_fp32(engine: Engine, frozen: bool = True) -> dict[str, Tensor]:
    """fp32 masters of the trainable parameters, by name, and with `frozen` the frozen ones and the persistent buffers.

    Parameters are gathered one at a time, so no rank but the first ever holds the model. Every rank must call it.

    Returns:
        On rank 0 the values on the CPU; on the others an empty dict.
    """
    module, keep = engine.ds.module, own_rank() == 0
    whole: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad or frozen:
            value = engine.shards.whole(name)
            if keep:
                whole[name] = value.float().cpu()
    if keep and frozen:
        persistent = module.state_dict(keep_vars=True).keys()
        whole |= {name: buffer.cpu() for name, buffer in module.named_buffers() if name in persistent}
    return whole


def export_model(
    engine: Engine,
    tokenizer: Any,
    folder: Path,
    lora: LoraConfig | None = None,
    fold: Fold | None = None,
    still_ours: Callable[[], None] = nobody_else,
) -> None:
    """Writes the fp32 masters (safetensors), the config and the tokenizer to `folder`, whole or not at all.

    Every rank must call it.

    Args:
        engine: what to export.
        tokenizer: what the model reads with.
        folder: where to.
        lora: of a model with adapters, its options: without `merge` they and the head are all that is written.
        fold: what the method's `prepare_model` returned.
        still_ours: what rank 0 asks before it writes and before each rename; it raises `Displaced`, which every rank then
            does, if another job has taken the run directory.

    Raises:
        SaveError: on every rank, if the disk refuses; `folder` is what it was.
    """
    weights = gather_fp32(engine, frozen=lora is None)
    if fold:
        fold(weights)

    def fill(aside: Path) -> None:
        if lora:
            from mat_ds.models.lora import write_adapter

            write_adapter(engine.ds.module, weights, aside, lora.merge)
        else:
            engine.ds.module.save_pretrained(str(aside), state_dict=weights)
            # transformers would note the compute dtype, and load the fp32 weights rounded to it.
            config = json.loads((aside / "config.json").read_text(encoding="utf-8"))
            write_json(aside / "config.json", {**config, "dtype": "float32"})
        tokenizer.save_pretrained(str(aside))

    on_rank_zero(lambda: write_folder(folder, fill, still_ours))
