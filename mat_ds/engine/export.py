"""Exports the trained model in fp32 to a folder that plain transformers (and peft) can load."""

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
def gather_fp32(
    engine: Engine, frozen: bool = True, gathered: Callable[[float], object] = lambda share: None
) -> dict[str, Tensor]:
    """Gathers the model on rank 0, one parameter at a time, so that no other rank needs memory for it. Every rank must call it.

    Args:
        engine: whose model.
        frozen: whether to include frozen parameters and persistent buffers.
        gathered: called after each parameter with the share of all that is there.

    Returns:
        On rank 0, fp32 parameters (masters of the trainable ones) and buffers by name, on the CPU; an empty dict on the others.
    """
    module, keep = engine.ds.module, own_rank() == 0
    whole: dict[str, Tensor] = {}
    parameters = list(module.named_parameters())
    for number, (name, parameter) in enumerate(parameters, 1):
        if parameter.requires_grad or frozen:
            value = engine.shards.whole(name)
            if keep:
                whole[name] = value.float().cpu()
        gathered(number / len(parameters))
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
    gathered: Callable[[float], object] = lambda share: None,
) -> None:
    """Writes the fp32 masters (safetensors), the config and the tokenizer to `folder`, whole or not at all.

    Every rank must call it.

    Args:
        engine: what to export.
        tokenizer: the model's.
        folder: where to export to; replaced as a whole.
        lora: options of the adapters, if the model has any; without `merge` only adapters and head are written.
        fold: what the method's `prepare_model` returned.
        still_ours: called by rank 0 before it writes and before each rename; raises `Displaced` (then on every rank) if
            another job took the run directory.
        gathered: as for `gather_fp32`.

    Raises:
        SaveError: on every rank, if the files could not be written; `folder` is left as it was.
    """
    weights = gather_fp32(engine, lora is None, gathered)
    if fold:
        fold(weights)

    def fill(aside: Path) -> None:
        if lora:
            from mat_ds.models.lora import write_adapter

            write_adapter(engine.ds.module, weights, aside, lora.merge)
        else:
            engine.ds.module.save_pretrained(str(aside), state_dict=weights)
            # transformers writes the compute dtype here, and would round the fp32 weights to it on loading.
            config = json.loads((aside / "config.json").read_text(encoding="utf-8"))
            write_json(aside / "config.json", {**config, "dtype": "float32"})
        tokenizer.save_pretrained(str(aside))

    on_rank_zero(lambda: write_folder(folder, fill, still_ours))
