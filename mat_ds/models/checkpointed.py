"""Parameters out of a checkpoint, whole again: what `mat_ds.engine.state` wrote, read without an engine or ranks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

# `--weights` -> kind of tensor in a checkpoint.
KINDS = {"raw": "theta", "average": "average"}


def weights_of(checkpoint: Path, kind: str, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """fp32 values of the parameters that were trained, by name; none if the checkpoint keeps none of this kind.

    Args:
        checkpoint: a folder of `rank-*.safetensors`, each holding stretches of parameters.
        kind: of tensors.
        shapes: of the model's parameters.

    Raises:
        RuntimeError: if the stretches of a parameter do not make a whole one.
    """
    whole: dict[str, Tensor] = {}
    missing: dict[str, int] = {}
    for path in sorted(checkpoint.glob("rank-*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                found, name, first = key.split(":")
                if found != kind:
                    continue
                if name not in whole:
                    whole[name] = torch.empty(shapes[name], dtype=torch.float32)
                    missing[name] = whole[name].numel()
                values = file.get_tensor(key)
                whole[name].view(-1)[int(first) : int(first) + len(values)] = values
                missing[name] -= len(values)
    if lacking := {name: count for name, count in missing.items() if count}:
        raise RuntimeError(f"{checkpoint} does not hold whole parameters: {lacking}")
    return whole
