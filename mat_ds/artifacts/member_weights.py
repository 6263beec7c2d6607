"""The weights of a mixture's members: loads them, and writes what of them their model has not."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from mat_ds.artifacts.exported import load_exported
from mat_ds.errors import Problem, UserError
from mat_ds.models.folder import is_adapter

WEIGHTS = "model.safetensors"


def load_members(
    folders: Sequence[Path], model: torch.nn.Module, dtype: torch.dtype, device: torch.device
) -> list[torch.nn.Module]:
    """Loads the members of a mixture in evaluation mode; parameters in which they agree with the model are held once.

    Args:
        folders: as from `members_of`.
        model: they belong to; with its adapters merged where it has any, if they hold differences.
        dtype, device: of all.
    """
    own = dict(model.named_parameters())
    members = []
    for folder in folders:
        if (folder / "config.json").exists() or is_adapter(folder):
            member: Any = load_exported(folder, dtype, device)
        else:
            from safetensors.torch import load_file

            member = deepcopy(model)
            missing = member.load_state_dict(load_file(folder / WEIGHTS), strict=False)
            if missing.unexpected_keys:
                raise UserError(Problem("mixture", str(folder), "holds weights that its model has not",
                                        "bring the whole folder of the registered model"))  # fmt: skip
        member.requires_grad_(False)
        for name, parameter in list(member.named_parameters()):
            same = own.get(name)
            if same is not None and same.shape == parameter.shape and torch.equal(same, parameter):
                place, _, last = name.rpartition(".")
                setattr(member.get_submodule(place), last, same)
        own = {**dict(member.named_parameters()), **own}
        members.append(member.eval())
    return members


def merged_model(folder: Path) -> torch.nn.Module:
    """The model in a folder in fp32 on the CPU, with its adapters merged if it has any."""
    model: Any = load_exported(folder, torch.float32, torch.device("cpu"))
    merged: torch.nn.Module = model.merge_and_unload() if is_adapter(folder) else model
    return merged


def write_differences(member: torch.nn.Module, model: torch.nn.Module, folder: Path) -> None:
    """Writes the tensors in which a member differs from its model, by the model's names.

    Raises:
        RuntimeError: if they are not of one architecture.
    """
    from safetensors.torch import save_file

    own, other = member.state_dict(), model.state_dict()
    if own.keys() != other.keys():
        raise RuntimeError(f"{folder.name} has other parameters than its model: {sorted(own.keys() ^ other.keys())[:3]}")
    differ = {name: value.contiguous() for name, value in own.items() if not torch.equal(value, other[name])}
    folder.mkdir(parents=True)
    save_file(differ, folder / WEIGHTS)
