"""Writes and reads the state of an engine: fp32 masters, moments and running averages.

Each rank writes its slices of parameters, named after the parameter and the position of the slice's first element. On reading,
each rank takes the values that overlap with its own slices, so number of ranks and ZeRO stage may change. Not written are
frozen parameters, which the model's folder contains; the mixture, which is unused between outer steps; and random
generators, since every draw has its own key.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mat_ds.engine.engine import Engine
from mat_ds.engine.loss_scale import read_loss_scale, restore_loss_scale
from mat_ds.engine.shards import numel, trainable
from mat_ds.errors import first_names
from mat_ds.ranks.chains import mean_of_chains
from mat_ds.ranks.collectives import from_all_ranks, own_rank, world_size
from mat_ds.sampling.chains_meeting import MET, RESIDUE
from mat_ds.storage.stretches import of_chain, stretches, without_chain

# Maximum size of a file, because safetensors copies it in memory before writing it.
PART_BYTES = 1 << 29
THETA = "theta"

# (kind of tensor, parameter, first element) -> its values on this rank, flat
Pieces = Iterator[tuple[str, str, int, Tensor]]


def loss_scales(engine: Engine) -> dict[str, Any]:
    """The loss scale of each chain, if there are several. Every rank must call it."""
    count = engine.shards.chains.count
    return {"loss_scales": from_all_ranks(read_loss_scale(engine.ds))[:: world_size() // count]} if count > 1 else {}


def describe_state(engine: Engine) -> dict[str, Any]:
    """Update count, loss scale, kind of noise and parameter sizes of an engine, in JSON types."""
    elements = {name: numel(parameter) for name, parameter in trainable(engine.ds.module)}
    numbers = {"updates": engine.sampler.updates, "loss_scale": read_loss_scale(engine.ds), "elements": elements}
    return {**numbers, "noise": engine.sampler.noise_device}


def write_state(engine: Engine, folder: Path) -> list[str]:
    """Writes this rank's part of the state as safetensors files into `folder`; returns their names."""
    names: list[str] = []
    part: dict[str, Tensor] = {}
    rank, inside = own_rank(), engine.shards.chains.inside
    place, ranks = own_rank(inside), world_size(inside)
    mode = stat.S_IMODE(folder.stat().st_mode) & 0o666  # safetensors would set another one

    def flush() -> None:
        names.append(f"rank-{rank:05d}-{len(names)}.safetensors")
        save_file(part, folder / names[-1])
        (folder / names[-1]).chmod(mode)
        part.clear()

    for number, (kind, parameter, first, values) in enumerate(_own_pieces(engine)):
        if engine.shards.replicated and number % ranks != place:
            continue
        if part and sum(tensor.nbytes for tensor in part.values()) + values.nbytes > PART_BYTES:
            flush()
        part[f"{kind}:{parameter}:{first}"] = values.contiguous()
    if part:
        flush()
    return names


class LoadError(RuntimeError):
    """The files of a checkpoint do not hold the values that the engine trains. Raised on every rank."""


@torch.no_grad()
def load_state(engine: Engine, files: list[Path], numbers: dict[str, Any]) -> None:
    """Restores an engine. Every rank must call it.

    Args:
        engine: what to restore.
        files: all files that `write_state` wrote, on any number of ranks.
        numbers: what `describe_state` returned.

    Raises:
        LoadError: on every rank, if the files lack values that some rank needs, or hold some of what is frozen here; the engine
            is then only partly restored and must not be used unless restored from other files.
    """
    try:
        fault = _no_longer_trained(engine, numbers) or _read(engine, files)
    except (OSError, ValueError, SafetensorError) as error:
        fault = str(error)
    faults = from_all_ranks(fault)
    if found := [other for other in faults if other]:
        raise LoadError(fault or found[0])
    engine.sampler.updates = numbers["updates"]
    scales = numbers.get("loss_scales") or [numbers["loss_scale"]]
    restore_loss_scale(engine.ds, scales[engine.shards.chains.own % len(scales)])
    engine.shards.refresh()


def _no_longer_trained(engine: Engine, numbers: dict[str, Any]) -> str | None:
    """What was trained and is frozen now, whose values would be left out; None if there is nothing."""
    frozen = {name for name, parameter in engine.ds.module.named_parameters() if not parameter.requires_grad}
    found = sorted(frozen & (numbers.get("elements") or {}).keys())  # null where they are not known
    return f"it holds trained values of {first_names(found, 3)}, which this run freezes" if found else None


def _read(engine: Engine, files: list[Path]) -> str | None:
    """Reads this rank's slices; returns what the files lack, or None. Where chains were apart, each goes on from its own theta;
    if there are others now than then, all from the mean."""
    chains = engine.shards.chains
    with ExitStack() as stack:
        written: dict[tuple[str, str], list[tuple[int, int, Any]]] = {}
        for kind, parameter, first, piece in stretches(files, stack, "pt"):
            written.setdefault((kind, parameter), []).append((first, piece.get_shape()[0], piece))
        thetas = sorted({kind for kind, _ in written if without_chain(kind) == THETA})
        for kind, parameter, first, values in _pieces(engine):
            if kind == RESIDUE and (of_chain(kind, chains.own), parameter) not in written:
                values.zero_()  # nothing has been left out
                continue
            if kind == MET and (kind, parameter) not in written:
                kind = THETA  # the chains have met there
            if kind == THETA and len(thetas) not in (1, chains.count):
                sources = thetas
            else:  # where fewer chains were saved, more go on from the moments of the first
                own = of_chain(kind, chains.own)
                sources = [own if (own, parameter) in written else kind]
            found = [_read_values(written.get((source, parameter), ()), first, values) for source in sources]
            if missing := sum(lacking for _, lacking in found):
                return f"it lacks {missing} of the {kind} values of {parameter}"
            values.copy_(mean_of_chains([value for value, _ in found]))
    engine.sampler.meeting.apart = 1 < len(thetas) == chains.count
    return None


def _read_values(written: Sequence[tuple[int, int, Any]], first: int, like: Tensor) -> tuple[Tensor, int]:
    """The elements of a parameter from `first` on, as many as `like` has, of its written pieces; and how many these lack."""
    values, missing = torch.empty_like(like), like.numel()
    for other, length, piece in written:
        begin, end = max(first, other), min(first + like.numel(), other + length)
        if begin < end:
            values[begin - first : end - first].copy_(piece[begin - other : end - other])
            missing -= end - begin
    return values, missing


def _own_pieces(engine: Engine) -> Pieces:
    """Those of `_pieces` that this rank's chain writes: averages are the same in all chains, and theta where they have met."""
    own, apart = engine.shards.chains.own, engine.sampler.meeting.apart
    each = {*engine.sampler.of_each_chain, *((THETA,) if apart else ())}
    for kind, parameter, first, values in _pieces(engine):
        if (own == 0 or kind in each) and (apart or kind != MET):
            yield of_chain(kind, own), parameter, first, values


def _pieces(engine: Engine) -> Pieces:
    """Views of all slices of this rank that are saved: of masters, moments and averages."""
    for master, pieces in engine.shards.masters():
        kept = {THETA: master.detach(), **engine.sampler.kept(master)}
        for kind, tensor in kept.items():
            flat = tensor.view(-1)
            for name, piece in pieces:
                yield kind, name, piece.offset, flat[piece.start : piece.start + piece.numel]
