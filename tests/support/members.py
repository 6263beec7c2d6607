"""Snapshots beside the model of a run that was made without training."""

import shutil

import torch
from safetensors.torch import load_file, save_file

from mat_ds.storage.checkpoints import name_of


def with_members(run, count):
    """The run with members after steps 1 .. count: its trained tensors, changed at random."""
    for step in range(1, count + 1):
        folder = run / "snapshots" / name_of(step)
        shutil.copytree(run / "model", folder)
        (file,) = folder.glob("*.safetensors")
        source = torch.Generator().manual_seed(step)
        weights = load_file(file)
        for value in weights.values():
            if value.is_floating_point():
                value += 0.1 * value.std(correction=0) * torch.randn(value.shape, generator=source) + 1e-3
        save_file(weights, file, {"format": "pt"})
    return run
