"""Weights left in their files until the parameter they belong to is wanted: a model that no process has to hold whole.

Only transformers' own loader knows which tensor of a file becomes which parameter: names have changed over the years, and a
base model has others than a classifier. So it is given a stand-in for each tensor: the tensor's number in the list of all
tensors, expanded to the tensor's shape, which takes four bytes. The number that arrives at a parameter says what to read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.utils.hub import cached_file, get_checkpoint_shard_files

from mat_ds.models.pretrained import load_tensors


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a safetensors file."""

    file: Path
    key: str

    def read(self) -> Tensor:
        """Its values in fp32, in memory of their own; the file is closed again."""
        with safe_open(self.file, framework="pt") as file:
            return file.get_tensor(self.key).to(torch.float32, copy=True)

    def read_into(self, target: Tensor) -> None:
        """Puts its values into a tensor of the same shape."""
        with safe_open(self.file, framework="pt") as file:
            target.copy_(file.get_tensor(self.key))


Unread = dict[Tensor, StoredTensor]


def weight_files(name: str) -> list[Path]:
    """The safetensors files of a model folder, or of a hub id (fetched if need be); none if it has no such files."""
    if single := cached_file(name, "model.safetensors", _raise_exceptions_for_missing_entries=False):
        return [Path(single)]
    if index := cached_file(name, "model.safetensors.index.json", _raise_exceptions_for_missing_entries=False):
        return [Path(file) for file in get_checkpoint_shard_files(name, index)[0]]
    return []


def load_unread(files: Iterable[Path], config: Any) -> tuple[nn.Module, dict[str, Any], Unread] | None:
    """A classifier whose weights are still in `files`, drawn anew where they are not.

    Args:
        files: safetensors files of one checkpoint.
        config: of the classifier.

    Returns:
        The model, in which parameters still to be read are stand-ins without memory; what transformers says of missing
        and mismatched names; and where to read each stand-in's values. None if some parameter is not simply a tensor of
        the files, but made of several, or of a part of one.
    """
    sources, shapes = [], []
    for path in files:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                sources.append(StoredTensor(path, key))
                shapes.append(file.get_slice(key).get_shape())
    stand_ins = {source.key: torch.tensor(float(i)).expand(shapes[i]) for i, source in enumerate(sources)}
    model, loading = load_tensors(config, stand_ins)
    model.config.name_or_path = model.name_or_path = config.name_or_path
    fresh = {*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])}
    if any(getattr(conversion, "operations", None) for conversion in getattr(model, "_weight_conversions", None) or ()):
        return None
    unread: Unread = {}
    loaded = {name: value for name, value in model.state_dict(keep_vars=True).items() if name not in fresh}
    for value in loaded.values():
        number = int(value.flatten()[0]) if value.numel() and not any(value.stride()) and value.ndim else -1
        if not 0 <= number < len(sources) or list(value.shape) != list(shapes[number]):
            return None
        unread[value] = sources[number]
    for buffer in model.buffers():
        if buffer in unread:
            buffer.data = unread.pop(buffer).read().to(buffer.dtype)
    return model, loading, unread


def value_of(parameter: Tensor, unread: Mapping[Tensor, StoredTensor]) -> Tensor:
    """A parameter's values, read from its file if they have not been."""
    return unread[parameter].read() if parameter in unread else parameter.detach()
