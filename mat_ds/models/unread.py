"""Loads weights lazily: parameters stay in their files until needed, so that no process must hold the whole model.

Only transformers' loader knows which tensor of a file becomes which parameter, since names differ between versions and between
base models and classifiers. So the loader is given a placeholder for each tensor: its index, expanded to the tensor's shape,
which takes four bytes. The index found in a parameter then tells which tensor to read.
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
    """A tensor in a safetensors file."""

    file: Path
    key: str

    def read(self) -> Tensor:
        """Reads its values into new memory, in fp32; opens and closes the file."""
        with safe_open(self.file, framework="pt") as file:
            return file.get_tensor(self.key).to(torch.float32, copy=True)

    def read_into(self, target: Tensor) -> None:
        """Copies its values into a tensor of the same shape."""
        with safe_open(self.file, framework="pt") as file:
            target.copy_(file.get_tensor(self.key))


Unread = dict[Tensor, StoredTensor]


def weight_files(name: str, revision: str | None = None) -> list[Path]:
    """The safetensors files of a model folder or hub id (downloaded if needed); empty if it has none."""
    at: dict[str, Any] = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
    if single := cached_file(name, "model.safetensors", **at):
        return [Path(single)]
    if index := cached_file(name, "model.safetensors.index.json", **at):
        return [Path(file) for file in get_checkpoint_shard_files(name, index, revision=revision)[0]]
    return []


def load_unread(files: Iterable[Path], config: Any) -> tuple[nn.Module, dict[str, Any], Unread] | None:
    """Builds a classifier whose weights remain in `files`; missing ones are initialised at random.

    Args:
        files: safetensors files of one checkpoint.
        config: of the classifier.

    Returns:
        The model, in which unread parameters take no memory; transformers' report on missing and mismatched names; and the
        source of each unread parameter. None if a parameter is not just a tensor of the files, but combined from several or
        part of one.
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
    """A parameter's values, from its file if it has not been read yet."""
    return unread[parameter].read() if parameter in unread else parameter.detach()
