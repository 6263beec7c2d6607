"""The whole model in fp32 out of its shards, as a folder that plain transformers loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import Tensor

from mat_ds.engine.distributed import on_rank_zero
from mat_ds.engine.engine import Engine
from mat_ds.engine.shards import gather_master
from mat_ds.rundir import write_folder, write_json


@torch.no_grad()
def gather_fp32(engine: Engine) -> dict[str, Tensor]:
    """fp32 masters of the trainable parameters, the frozen ones, and the persistent buffers, by name.

    Parameters are gathered one at a time, so no rank but the first ever holds the model. Every rank must call it.

    Returns:
        On rank 0 the whole model on the CPU; on the others an empty dict.
    """
    module, keep = engine.ds.module, torch.distributed.get_rank() == 0
    replicated = engine.ds.zero_optimization_stage() == 0
    whole: dict[str, Tensor] = {}
    index = 0
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            value = gather_master(engine.shards, index, parameter, engine.device, replicated)
            index += 1
        else:
            with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
                value = parameter.detach().clone()
        if keep:
            whole[name] = value.float().cpu()
    if keep:
        persistent = module.state_dict(keep_vars=True).keys()
        whole |= {name: buffer.cpu() for name, buffer in module.named_buffers() if name in persistent}
    return whole


def export_model(engine: Engine, tokenizer: Any, folder: Path, fold: Callable[[dict[str, Tensor]], None] | None = None) -> None:
    """Writes the fp32 masters (safetensors), the config and the tokenizer to `folder`, whole or not at all.

    Every rank must call it.

    Args:
        engine: whose parameters.
        tokenizer: of the model.
        folder: what it becomes.
        fold: changes the weights into those of a model without mat_ds's hooks.
    """
    weights = gather_fp32(engine)
    if fold:
        fold(weights)

    def fill(aside: Path) -> None:
        engine.ds.module.save_pretrained(str(aside), state_dict=weights)
        tokenizer.save_pretrained(str(aside))
        # transformers would note the compute dtype, and load the fp32 weights rounded to it.
        config = json.loads((aside / "config.json").read_text(encoding="utf-8"))
        write_json(aside / "config.json", {**config, "dtype": "float32"})

    on_rank_zero(lambda: write_folder(folder, fill))
