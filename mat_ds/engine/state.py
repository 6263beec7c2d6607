"""What a run must keep of its engine: fp32 masters, moments and running averages, by parameter and not by rank.

A rank writes the stretches of parameters that it holds, each under the parameter's name and the place of its first element.
Whoever reads takes what overlaps with his own, so any number of ranks and any ZeRO stage continues what any other has
written. Frozen parameters are those of the folder they came from; the mixture is dead between two outer steps; random
generators need no saving, since every draw comes from a key.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mat_ds.engine.engine import Engine
from mat_ds.engine.loss_scale import read_loss_scale, restore_loss_scale
from mat_ds.engine.shards import refresh, trainable

# A file is copied in memory before it is written.
PART_BYTES = 1 << 29
THETA = "theta"

# (kind of tensor, parameter, first element) -> its values on this rank, flat
Pieces = Iterator[tuple[str, str, int, Tensor]]


def describe_state(engine: Engine) -> dict[str, Any]:
    """The numbers among an engine's state, JSON types only."""
    return {"updates": engine.sampler.updates, "loss_scale": read_loss_scale(engine.ds)}


def write_state(engine: Engine, folder: Path) -> list[str]:
    """Writes what this rank holds as safetensors files into `folder`; returns their names."""
    names: list[str] = []
    part: dict[str, Tensor] = {}
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    replicated = engine.ds.zero_optimization_stage() == 0

    def flush() -> None:
        names.append(f"rank-{rank:05d}-{len(names)}.safetensors")
        save_file(part, folder / names[-1])
        part.clear()

    for number, (kind, parameter, first, values) in enumerate(_pieces(engine)):
        if replicated and number % ranks != rank:
            continue
        if part and sum(tensor.nbytes for tensor in part.values()) + values.nbytes > PART_BYTES:
            flush()
        part[f"{kind}:{parameter}:{first}"] = values.contiguous()
    if part:
        flush()
    return names


@torch.no_grad()
def load_state(engine: Engine, files: list[Path], numbers: dict[str, Any]) -> None:
    """Restores what `write_state` wrote on any number of ranks and `describe_state` said. Every rank must call it.

    Raises:
        RuntimeError: if the files do not hold every element that this rank needs.
    """
    with ExitStack() as stack:
        written: dict[tuple[str, str], list[tuple[int, int, Any]]] = {}
        for path in files:
            file = stack.enter_context(safe_open(path, framework="pt"))
            for key in file.keys():  # noqa: SIM118
                kind, parameter, first = key.split(":")
                piece = file.get_slice(key)
                written.setdefault((kind, parameter), []).append((int(first), piece.get_shape()[0], piece))
        for kind, parameter, first, values in _pieces(engine):
            missing = values.numel()
            for other, length, piece in written.get((kind, parameter), ()):
                begin, end = max(first, other), min(first + values.numel(), other + length)
                if begin < end:
                    values[begin - first : end - first].copy_(piece[begin - other : end - other])
                    missing -= end - begin
            if missing:
                raise RuntimeError(f"the checkpoint lacks {missing} of the {kind} values of {parameter}")
    engine.sampler.updates = numbers["updates"]
    restore_loss_scale(engine.ds, numbers["loss_scale"])
    refresh(engine.ds)


def _pieces(engine: Engine) -> Pieces:
    """Views of all that is to be kept of this rank's master tensors."""
    names = [name for name, _ in trainable(engine.ds.module)]
    for master, slices in engine.shards.items():
        kept = {THETA: master.detach(), **engine.sampler.kept(master)}
        for kind, tensor in kept.items():
            flat = tensor.view(-1)
            for piece in slices:
                yield kind, names[piece.parameter], piece.offset, flat[piece.start : piece.start + piece.numel]
