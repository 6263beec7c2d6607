"""Writes a model that differs from an exported one: merged adapters, another precision, the weights of a checkpoint."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mat_ds.artifacts.calibrated import FILE as TEMPERATURE
from mat_ds.artifacts.card import CARD, write_copy
from mat_ds.artifacts.described import read_description, run_around, write_description
from mat_ds.artifacts.exported import load_classifier, load_exported
from mat_ds.errors import Problem, UserError
from mat_ds.methods import METHODS
from mat_ds.models.folder import ADAPTER, is_adapter
from mat_ds.models.pissa import as_lora, begun_of
from mat_ds.models.pretrained import load_tokenizer
from mat_ds.ranks.chains import mean_of_chains
from mat_ds.storage.folders import copy_files
from mat_ds.storage.integrity import SHARD, read_manifest
from mat_ds.storage.stretches import stretches, without_chain

# Maps `--weights` to the kind of tensor in a checkpoint.
KEPT_AS = {"raw": "theta", "average": "average"}


def write_converted(out: Path, source: Path, checkpoint: Path | None, parsed: argparse.Namespace) -> None:
    """Writes the exported model."""
    inner = source / ADAPTER if checkpoint and is_adapter(source / ADAPTER) else source
    adapters, dtype = is_adapter(inner), parsed.dtype
    merge = parsed.merge or inner != source
    if adapters and not merge and dtype != "float32":
        raise UserError(Problem("--dtype", dtype, "adapters alone are stored in float32", "pass --merge, or leave --dtype out"))
    fp32, cpu = torch.float32, torch.device("cpu")
    # Adapters beside a merged model have no tokenizer of their own.
    model: Any = load_classifier(source, fp32, cpu)[0] if inner == source else load_exported(inner, fp32, cpu)
    weights = _replace(model, source, checkpoint, parsed.weights) if checkpoint else {}
    if adapters and not merge and weights:
        from mat_ds.models.lora import write_adapter

        write_adapter(model, weights, out, merge=False)
    elif adapters and not merge:
        copy_files(source, out)
    else:
        whole: Any = (model.merge_and_unload() if adapters else model).to(getattr(torch, dtype))
        if not all(bool(value.isfinite().all()) for value in whole.state_dict().values()):
            raise UserError(Problem("--dtype", dtype, "some weights exceed its range", "use bfloat16 or float32"))
        whole.save_pretrained(str(out))
    load_tokenizer(str(source), "MODEL", adapters=True).save_pretrained(str(out))
    if known := read_description(source):
        write_description(out, known)
    if checkpoint is None and (source / TEMPERATURE).exists():  # it belongs to these weights
        shutil.copy2(source / TEMPERATURE, out / TEMPERATURE)
    if (source / CARD).exists():
        merged = adapters and merge
        write_copy(source, out, list(_differences(checkpoint, merged, parsed)), merged, checkpoint is None)


def _replace(model: Any, source: Path, checkpoint: Path, kind: str) -> dict[str, Tensor]:
    """Loads a checkpoint's weights into the model, and returns them by name."""
    parameters, run = dict(model.named_parameters()), run_around(source)
    # A checkpoint has PiSSA's adapters as they were trained, a folder as LoRA on the unchanged base.
    first = begun_of(parameters) if run and run.model.lora and run.model.lora.variant == "pissa" else {}
    shapes = {name: value.shape for name, value in {**parameters, **first}.items()}
    weights = whole_weights(checkpoint, KEPT_AS[kind], shapes)
    if not weights:
        raise UserError(Problem("--weights", kind, f"{checkpoint} has no such weights",
                                "train with model.average=ema or model.average=uniform, or pass --weights raw"))  # fmt: skip
    weights = as_lora(weights, first)
    for name, value in parameters.items():
        value.requires_grad_(name in weights)
    if run and (fold := METHODS[run.method.name].prepare_model(model, run.method)):
        fold(weights)
    model.load_state_dict(weights, strict=False)
    return weights


def _differences(checkpoint: Path | None, merged: bool, parsed: argparse.Namespace) -> Iterator[str]:
    """Yields notes for the model card about what differs from the scored model."""
    if checkpoint:
        yield f"The {parsed.weights} weights of the run's {checkpoint.name}: the scores above are of other weights."
    if merged:
        yield "Its adapters have been merged: load it like any model of transformers."
    if parsed.dtype != "float32":
        yield f"Rounded to {parsed.dtype} after it was scored."


def whole_weights(checkpoint: Path, kind: str, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """fp32 values of the trained parameters by name; empty if the checkpoint has none of this kind. Of chains that were apart,
    their means.

    Args:
        checkpoint: a verified checkpoint; its `rank-*.safetensors` contain slices of parameters.
        kind: of tensor, see `KEPT_AS`.
        shapes: of the model's parameters.

    Raises:
        RuntimeError: if the slices do not cover a parameter.
    """
    whole: dict[tuple[str, str], Tensor] = {}
    missing: dict[tuple[str, str], int] = {}
    files = [checkpoint / name for name in sorted(read_manifest(checkpoint) or ()) if SHARD.fullmatch(name)]
    with ExitStack() as stack:
        for found, name, first, piece in stretches(files, stack, "pt"):
            if without_chain(found) != kind:
                continue
            key, values = (name, found), piece[:]
            if key not in whole:
                whole[key] = torch.empty(shapes[name], dtype=torch.float32)
                missing[key] = whole[key].numel()
            whole[key].view(-1)[first : first + len(values)] = values
            missing[key] -= len(values)
    if lacking := {name: count for (name, _), count in missing.items() if count}:
        raise RuntimeError(f"{checkpoint} does not hold whole parameters: {lacking}")
    return {name: mean_of_chains([value for (other, _), value in whole.items() if other == name]) for name, _ in whole}
