"""Reads whole parameters from a checkpoint written by `mat_ds.engine.state`, without an engine or ranks."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from mat_ds.storage.integrity import SHARD, read_manifest
from mat_ds.storage.stretches import stretches

# Maps `--weights` to the kind of tensor in a checkpoint.
KEPT_AS = {"raw": "theta", "average": "average"}


def whole_weights(checkpoint: Path, kind: str, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """fp32 values of the trained parameters by name; empty if the checkpoint has none of this kind.

    Args:
        checkpoint: a verified checkpoint; its `rank-*.safetensors` contain slices of parameters.
        kind: of tensor, see `KEPT_AS`.
        shapes: of the model's parameters.

    Raises:
        RuntimeError: if the slices do not cover a parameter.
    """
    whole: dict[str, Tensor] = {}
    missing: dict[str, int] = {}
    files = [checkpoint / name for name in sorted(read_manifest(checkpoint) or ()) if SHARD.fullmatch(name)]
    with ExitStack() as stack:
        for found, name, first, piece in stretches(files, stack, "pt"):
            if found != kind:
                continue
            if name not in whole:
                whole[name] = torch.empty(shapes[name], dtype=torch.float32)
                missing[name] = whole[name].numel()
            values = piece[:]
            whole[name].view(-1)[first : first + len(values)] = values
            missing[name] -= len(values)
    if lacking := {name: count for name, count in missing.items() if count}:
        raise RuntimeError(f"{checkpoint} does not hold whole parameters: {lacking}")
    return whole
