"""`mat-ds export`: writes a model to a self-contained folder of safetensors, config, tokenizer and card.

Adapters can be merged, the precision changed, or a checkpoint's weights or running average exported.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mat_ds.artifacts.card import CARD, write_copy
from mat_ds.artifacts.described import read_description, run_around, write_description
from mat_ds.artifacts.exported import load_classifier
from mat_ds.config.paths import argument
from mat_ds.errors import ExitCode, Problem, UserError, raise_if_any
from mat_ds.methods import METHODS
from mat_ds.models.lora import ADAPTER, is_adapter, write_adapter
from mat_ds.models.pretrained import load_tokenizer
from mat_ds.ranks.exits import attempt
from mat_ds.ranks.world import World
from mat_ds.registry.locate import MEANING, is_local, locate
from mat_ds.runs.plugins import load_plugins
from mat_ds.storage.checkpoints import checkpoints_of
from mat_ds.storage.folders import copy_files, restore, write_folder
from mat_ds.storage.integrity import SHARD, read_manifest, verify_checkpoint
from mat_ds.storage.rundir import RunDirectory
from mat_ds.storage.stretches import stretches
from mat_ds.terminal.parser import Parser, add_plugin_argument

EXAMPLE = "mat-ds export runs/cola models/cola --merge --dtype float16"
# Maps `--weights` to the kind of tensor in a checkpoint.
KEPT_AS = {"raw": "theta", "average": "average"}


def main(arguments: Sequence[str]) -> ExitCode:
    """Runs the command and returns its exit code."""
    return attempt(lambda: _export(parse(arguments)), World(), "")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the command line; raises `UserError` if it is invalid."""
    parser = Parser("export", __doc__, EXAMPLE)
    parser.add_argument(
        "model",
        metavar="MODEL",
        type=argument,
        help=f"{MEANING}; with --weights a run directory or one of its checkpoints",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="target folder; must be empty or not exist")
    parser.add_argument(
        "--weights",
        choices=KEPT_AS,
        help="take weights of the run's newest undamaged checkpoint: the parameters, or their "
        "running average (model.average); default: the weights in model/",
    )
    parser.add_argument("--merge", action="store_true", help="merge adapters into the weights of their base")
    parser.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="precision of the weights (%(default)s)"
    )
    add_plugin_argument(parser)
    return parser.parse_args(arguments)


def _export(parsed: argparse.Namespace) -> None:
    raise_if_any(_export_problems(parsed))
    load_plugins(parsed.plugin)
    checkpoint = _checkpoint_of(Path(parsed.model)) if parsed.weights else None
    source = RunDirectory(_run_of(Path(parsed.model))).model if checkpoint else locate(parsed.model)
    write_folder(parsed.out, lambda aside: _fill(aside, source, checkpoint, parsed))
    print(parsed.out)


def _export_problems(parsed: argparse.Namespace) -> Iterator[Problem]:
    if parsed.out.exists() and not (parsed.out.is_dir() and not any(parsed.out.iterdir())):
        yield Problem("OUT", str(parsed.out), "exists and is not an empty folder", "name a new folder")
    if parsed.weights and not is_local(parsed.model):
        yield Problem(
            "--weights",
            parsed.weights,
            f"{parsed.model} is not a run directory, so it has no checkpoints",
            "pass runs/<run>, or leave --weights out",
        )


def _run_of(path: Path) -> Path:
    """The run directory of a path, which is a run or one of its checkpoints."""
    return path if RunDirectory(path).holds_a_run else path.absolute().parent.parent


def _checkpoint_of(path: Path) -> Path:
    """The newest undamaged checkpoint of a run, or the given checkpoint."""
    rundir = RunDirectory(_run_of(path))
    with suppress(OSError):  # another user's run may be read-only
        restore(rundir.model)
    found = next((checkpoint for checkpoint in checkpoints_of(path) if verify_checkpoint(checkpoint) is None), None)
    if not rundir.holds_a_run or found is None:
        raise UserError(
            Problem("MODEL", str(path), "has no undamaged checkpoint", "see `mat-ds verify`, or leave --weights out")
        )
    if not rundir.model.is_dir():
        raise UserError(Problem("MODEL", str(path), "the run has not exported a model yet", "let it evaluate once"))
    return found


def _fill(out: Path, source: Path, checkpoint: Path | None, parsed: argparse.Namespace) -> None:
    """Writes the exported model."""
    inner = source / ADAPTER if checkpoint and is_adapter(source / ADAPTER) else source
    adapters, dtype = is_adapter(inner), parsed.dtype
    merge = parsed.merge or inner != source
    if adapters and not merge and dtype != "float32":
        raise UserError(Problem("--dtype", dtype, "adapters alone are stored in float32", "pass --merge, or leave --dtype out"))
    model, _ = load_classifier(inner if adapters else source, torch.float32, torch.device("cpu"))
    weights = _replace(model, source, checkpoint, parsed.weights) if checkpoint else {}
    if adapters and not merge and weights:
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
    if (source / CARD).exists():
        merged = adapters and merge
        write_copy(source, out, list(_differences(checkpoint, merged, parsed)), merged, checkpoint is None)


def _replace(model: Any, source: Path, checkpoint: Path, kind: str) -> dict[str, Tensor]:
    """Loads a checkpoint's weights into the model, and returns them by name."""
    parameters = dict(model.named_parameters())
    weights = whole_weights(checkpoint, KEPT_AS[kind], {name: value.shape for name, value in parameters.items()})
    if not weights:
        raise UserError(Problem("--weights", kind, f"{checkpoint} has no such weights",
                                "train with model.average=ema or model.average=uniform, or pass --weights raw"))  # fmt: skip
    for name, value in parameters.items():
        value.requires_grad_(name in weights)
    run = run_around(source)
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
