"""Checks that a model's files contain its weights; otherwise some would silently be initialised at random."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from mat_ds.errors import Problem, UserError, first_names
from mat_ds.models.folder import INDICES, read_object
from mat_ds.models.pretrained import Loading, new_model
from mat_ds.models.source import FOLDER_FIX

# Number of weights that may be missing from the files: a head and a pooler.
MOST_DRAWN = 100_000_000
SHOWN = 3
POOLER = "pooler"
RENAME = (
    "rename them: names that begin with {prefix!r} come from a wrapper's state_dict(); save its .module (or ._orig_mod) with "
    "save_pretrained, or write {{name.removeprefix({prefix!r}): ...}} with safetensors"
)
RESTORE = "bring the whole folder, as save_pretrained wrote it"


def check_size(key: str, name: str, config: Any) -> None:
    """Raises `UserError` if a folder's files are too small for its config.json: the missing weights would be initialised at
    random, perhaps in more memory than there is."""
    sizes = [path.stat().st_size for path in Path(name).iterdir() if path.suffix in (".safetensors", ".bin")]
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in new_model(config).parameters())
    if count > sum(sizes) + MOST_DRAWN:
        raise UserError(Problem(key, name, f"its files hold {sum(sizes):,} bytes, too few for the {count:,} weights that its "
                                "config.json describes", RESTORE))  # fmt: skip


def check_once(key: str, name: str) -> None:
    """Raises `UserError` if two files of a folder contain the same tensor, since either could be meant."""
    index = Path(name) / INDICES[0]
    if (Path(name) / "model.safetensors").exists() or not index.exists():
        return
    seen: dict[str, str] = {}
    for part in sorted(set(read_object(key, index)["weight_map"].values())):
        with safe_open(Path(name) / part, framework="pt") as file:
            for tensor in file.keys():  # noqa: SIM118
                if tensor in seen:
                    raise UserError(Problem(key, name, f"{tensor} is in {seen[tensor]} and in {part}", RESTORE))
                seen[tensor] = part


def is_backbone(module: Any, name: str) -> bool:
    """Whether a parameter or buffer is pre-trained, not part of a head or pooler."""
    prefix = module.base_model_prefix
    return name.startswith(f"{prefix}.") and POOLER not in name.split(".")


def fit_problems(key: str, name: str, module: Any, loading: Loading, whole: bool = False) -> Iterator[Problem]:
    """Yields a problem if weights are missing from a model's files or do not fit.

    Args:
        key, name: the option that named the model, and its name.
        module: the loaded classifier.
        loading: transformers' loading report.
        whole: whether head and pooler are required too.
    """
    wanted = [one for one in module.state_dict() if whole or is_backbone(module, one)]
    missing = sorted(set(loading["missing_keys"]) & set(wanted))
    shapes = {one: (tuple(found), tuple(own)) for one, found, own in loading["mismatched_keys"] if one in set(wanted)}
    backbone = [one for one in module.state_dict() if is_backbone(module, one)]
    part = "weight" if whole else "backbone weight"
    if missing:
        unknown = sorted(loading["unexpected_keys"])
        prefix = _common_prefix(unknown, missing, f"{module.base_model_prefix}.")
        if whole and not set(missing) & set(backbone):
            reason = f"it was saved without a classification head: its files lack {first_names(missing, SHOWN)}"
            fix = FOLDER_FIX
        else:
            some = "none" if len(missing) == len(wanted) else f"only {len(wanted) - len(missing)}"
            reason = f"{some} of its {len(wanted)} {part}s can be found in its files: they lack {first_names(missing, SHOWN)}"
            reason += f", and hold {first_names(unknown, SHOWN)}" if unknown else ""
            fix = RENAME.format(prefix=prefix) if prefix else f"{RESTORE}, with the config.json that belongs to the weights"
        yield Problem(key, name, reason, fix)
    if shapes:
        first, (found, own) = min(shapes.items())
        more = f", and {len(shapes) - 1} more" if len(shapes) > 1 else ""
        reason = f"{first} has the shape {found} in its files and {own} by its config.json{more}"
        yield Problem(key, name, reason, "bring the config.json that belongs to the weights")
    if extra := sorted(set(_layers_beyond(backbone, loading["unexpected_keys"]))):
        reason = f"its files hold layers that its config.json does not have: {first_names(extra, SHOWN)}"
        fix = "bring the config.json that belongs to the weights, or save the shorter model with save_pretrained"
        yield Problem(key, name, reason, fix)


def label_dimensions(module: Any) -> dict[str, int]:
    """Parameters whose shape depends on the number of labels, with the dimension that does."""
    config = copy.deepcopy(module.config)
    config.num_labels = module.config.num_labels + 1
    with torch.device("meta"):
        other = dict(new_model(config).named_parameters())
    changed = {}
    for name, parameter in module.named_parameters():
        shapes = enumerate(zip(parameter.shape, other.get(name, parameter).shape, strict=True))
        for dimension in (i for i, (own, one_more) in shapes if own != one_more):
            changed[name] = dimension
    return changed


@torch.no_grad()
def draw_anew(module: Any, names: Iterable[str]) -> None:
    """Re-initialises parameters with the architecture's own initialisation."""
    for name in names:
        parameter: Tensor = module.get_parameter(name)
        owner: nn.Module = module.get_submodule(name.rpartition(".")[0])
        parameter.data = torch.zeros(parameter.shape, dtype=parameter.dtype)
        if parameter.dim() > 1:
            parameter.normal_(0.0, getattr(module.config, "initializer_range", None) or 0.02)
        for part in (parameter, owner):
            part.__dict__.pop("_is_hf_initialized", None)
        module._init_weights(owner)


def _common_prefix(found: list[str], wanted: list[str], base: str) -> str:
    """The prefix by which all found names differ from wanted names; "" if that is not the difference."""
    ends = {end for one in wanted for end in (one, one.removeprefix(base))}
    for one in found:
        for end in sorted(ends, key=len, reverse=True):
            if one.endswith(f".{end}") and all(other.startswith(one.removesuffix(end)) for other in found):
                return one.removesuffix(end)
    return ""


def _layers_beyond(own: list[str], unexpected: Iterable[str]) -> Iterator[str]:
    """Yields layers with higher numbers than the model's own, among names that nothing fits."""
    number = re.compile(r"\.\d+\.")
    known = {number.sub(".N.", name, count=1).split(".", 1)[-1] for name in own if number.search(name)}
    for name in unexpected:
        shape = number.sub(".N.", name, count=1)
        if (found := number.search(name)) and (shape in known or shape.split(".", 1)[-1] in known):
            yield name[: found.end() - 1]
