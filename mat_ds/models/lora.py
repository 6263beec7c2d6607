"""LoRA adapters; the only module that imports PEFT.

The base model is frozen; adapters and head are trained. Modules for which the base folder had no weights are trained and saved
too: frozen random weights could not be reproduced by whoever loads the adapters.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import peft
import torch
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as LORA_TARGETS
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mat_ds.errors import Problem, UserError, raise_if_any
from mat_ds.models.fit import fit_problems, label_dimensions
from mat_ds.models.folder import ADAPTER, check_model, file_of
from mat_ds.models.options import LoraConfig
from mat_ds.models.pissa import as_lora, begun, one_thread, remember
from mat_ds.models.pretrained import load_config, load_weights
from mat_ds.sampling.keys import seed_from
from mat_ds.tasks.kinds import kind_of_model

KEY = "model"
MAGNITUDE = ".lora_magnitude_vector"  # DoRA's, as PEFT calls it in files
# What PEFT lacks a default for gets what its defaults name elsewhere: the projections to queries and values.
TARGETS = {
    **{kind: tuple(ends) for kind, ends in LORA_TARGETS.items() if isinstance(ends, list)},
    "albert": ("query", "value"),
    "distilbert": ("q_lin", "v_lin"),
    "eurobert": ("q_proj", "v_proj"),
    "modernbert": ("Wqkv",),
    "mpnet": ("q", "v"),
    "nomic_bert": ("q_proj", "v_proj"),
}


def add_lora(model: Any, base: str, lora: LoraConfig, fresh: list[str], seed: int, revision: str | None = None) -> nn.Module:
    """Adds adapters to a model, and freezes all but adapters, head and randomly initialised modules. Same on every rank.

    Args:
        model: a transformers classifier in fp32.
        base: folder or hub id it was loaded from, stored with the adapters.
        lora: the options.
        fresh: names of randomly initialised parameters.
        seed: of the run.
        revision: of the base on the hub, stored with the adapters too.

    Raises:
        UserError: if a requested module does not exist, the architecture has no default, or the rank is too high.
    """
    raise_if_any(_module_problems(model, lora))
    kind, heads = kind_of_model(model.config), heads_of(model)
    drawn = sorted({name.rpartition(".")[0] for name in fresh if not _within(name, heads)})
    # Without values there are no singular ones; names and shapes are the same.
    pissa = lora.variant == "pissa" and not next(model.parameters()).is_meta
    config = peft.LoraConfig(
        task_type=peft.TaskType[kind.peft_task] if kind.peft_task else None,
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_dora=lora.variant == "dora",
        use_rslora=lora.variant == "rslora",
        init_lora_weights="pissa" if pissa else True,
        target_modules=lora.target_modules or list(TARGETS[model.config.model_type]),
        modules_to_save=[*lora.modules_to_save, *drawn, *_named_heads(model, heads)],
    )
    torch.manual_seed(seed_from(seed, "lora"))
    with warnings.catch_warnings(), one_thread() if pissa else nullcontext():
        warnings.simplefilter("ignore")  # about GPT-2's transposed weights, which PEFT then handles
        wrapped: nn.Module = peft.get_peft_model(model, config)
    if pissa:
        raise_if_any(_rank_problems(wrapped, lora.r))
        remember(wrapped)
        # From here on the configuration is only saved, with what `as_lora` makes of the adapters.
        config.r, config.lora_alpha, config.init_lora_weights = 2 * lora.r, 2 * lora.alpha, True
    path = Path(base)
    config.base_model_name_or_path = str(path.resolve()) if path.is_dir() else base
    config.revision = revision
    return wrapped


def _named_heads(model: Any, heads: Iterable[str]) -> list[str]:
    """The heads that PEFT has to be told: those that it does not know, or all that there are if it has no such task."""
    kind, modules = kind_of_model(model.config), [name for name, _ in model.named_modules()]
    if kind.peft_task:
        return [head for head in heads if head not in kind.peft_heads]
    return [head for head in heads if any(_named(name, head) for name in modules)]


def heads_of(model: Any) -> list[str]:
    """Names of the head's modules: PEFT's own list, and modules whose shape depends on the number of labels (BART's
    `classification_head`, XLM's `sequence_summary`)."""
    known = kind_of_model(model.config).peft_heads
    own = [name for name in label_dimensions(model) if not _within(name, known)]
    base = f"{model.base_model_prefix}."
    return [*known, *sorted({name.rpartition(".")[0] if name.startswith(base) else name.partition(".")[0] for name in own})]


def _within(name: str, modules: Iterable[str]) -> bool:
    """Whether a name is one of the modules, or inside one."""
    return any(f".{module}." in f".{name}." for module in modules)


def copies(model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (copy, original) of parameters of which PEFT trains a copy, such as the head's.

    Code that fills the model with weights after adding adapters must fill both.
    """
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        original = parameters.get(name.replace(".modules_to_save.default.", ".original_module."))
        if original is not None and original is not parameter:
            yield parameter, original


def _module_problems(model: Any, lora: LoraConfig) -> Iterator[Problem]:
    """Yields a problem for requested modules that do not exist, listing those that do."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    heads = heads_of(model)
    linear = [name for name in linear if not _within(name, heads)]
    kind = model.config.model_type
    if lora.target_modules is None and kind not in TARGETS:
        yield Problem("model.lora.target_modules", None, f"there is no default for {kind}", f"name some of: {_ends(linear)}")
    modules = [name for name, module in model.named_modules() if name and next(module.parameters(), None) is not None]
    for option, asked, there, what in (
        ("target_modules", lora.target_modules or [], linear, "linear layer"),
        ("modules_to_save", lora.modules_to_save, modules, "module"),
    ):
        if missing := [name for name in asked if not any(_named(module, name) for module in there)]:
            reason = f"no {what} is called {', '.join(missing)}"
            yield Problem(f"model.lora.{option}", asked, reason, f"there are: {_ends(there)}")


def _rank_problems(wrapped: nn.Module, rank: int) -> Iterator[Problem]:
    """Yields a problem if a layer has fewer singular values than PiSSA's adapters have rows."""
    fewest = min(len(p) for name, p in wrapped.named_parameters() if ".lora_A." in name)
    if fewest < rank:
        reason = f"model.lora.variant=pissa takes as many singular values of each layer, and one has {fewest}"
        yield Problem("model.lora.r", rank, reason, f"take at most {fewest}")


def _named(module: str, end: str) -> bool:
    return module == end or module.endswith(f".{end}")


def _ends(names: list[str]) -> str:
    """The last parts of names, without numbers."""
    return ", ".join(sorted({end for name in names if not (end := name.rpartition(".")[2]).isdigit()}))


def write_adapter(model: Any, weights: Mapping[str, Tensor], folder: Path, merge: bool) -> None:
    """Saves adapters and head as safetensors, with the name of their base and the classifier's config.

    Args:
        model: from `add_lora`; only its structure is used.
        weights: fp32 values of its trainable parameters, by name.
        folder: target; with `merge`, adapters go to its sub-folder `adapter`.
        merge: whether to write the whole model with merged adapters into `folder`.

    Raises:
        RuntimeError: if the written files differ from `weights`.
    """
    target = folder / ADAPTER if merge else folder
    weights = as_lora(weights, begun(model))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning that the base's config cannot be fetched from the hub
        model.save_pretrained(str(target), state_dict=dict(weights), save_embedding_layers=False)
    (target / "README.md").unlink(missing_ok=True)  # an empty template of a model card
    model.config.save_pretrained(str(target))
    _check_saved(weights, target)
    if merge:
        whole: Any = load_adapter(target, torch.float32)
        whole.merge_and_unload().save_pretrained(str(folder))


def load_adapter(folder: Path, dtype: torch.dtype) -> nn.Module:
    """Loads adapters written by `write_adapter` together with their base.

    Raises:
        UserError: if the base cannot be found, or weights of either are missing.
    """
    name = str(folder)
    config = load_config(name, KEY, adapters=True)
    saved = peft.PeftConfig.from_pretrained(name)
    base = str(saved.base_model_name_or_path)
    _check_base(folder, base, saved.revision)
    module, loading = load_weights(base, config, dtype, saved.revision)
    raise_if_any(fit_problems(KEY, base, module, loading))
    model: nn.Module = peft.PeftModel.from_pretrained(module, name, autocast_adapter_dtype=False)
    drawn = {*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])}
    wanted = {*peft.get_peft_model_state_dict(model), *(f"base_model.model.{key}" for key in drawn)}
    if lacking := sorted(wanted - set(peft.utils.load_peft_weights(name, device="cpu"))):
        raise UserError(Problem(KEY, name, f"its adapters lack {', '.join(lacking[:3])}, which would be drawn at random",
                                "bring the whole folder, as training wrote it"))  # fmt: skip
    return model.to(dtype)


def _check_base(folder: Path, base: str, revision: str | None) -> None:
    """Raises `UserError` if the base of adapters cannot be found, or is not a whole model."""
    file = folder / "adapter_config.json"
    local = Path(base).is_absolute() or base.startswith((".", "~")) or len(Path(base).parts) > 2
    fix = f"bring the base there, or set base_model_name_or_path in {file} to its folder"
    if local and not Path(base).is_dir():
        raise UserError(
            Problem(
                KEY, str(folder), f"holds adapters of {base}, as adapter_config.json says, but there is no such folder", fix
            )
        )
    if not local and not Path(base).is_dir() and file_of(base, "config.json", revision) is None:
        raise UserError(Problem(KEY, str(folder), f"holds adapters of {base}, as adapter_config.json says: there is no such "
                                "folder, and it cannot be loaded from the hub", fix))  # fmt: skip
    check_model(KEY, base, revision=revision)


def _check_saved(weights: Mapping[str, Tensor], folder: Path) -> None:
    """Compares the written file with `weights`: with ZeRO-3, empty heads have been saved before."""
    from safetensors.torch import load_file

    found = load_file(folder / "adapter_model.safetensors")
    for name, value in weights.items():
        # PEFT drops the adapter's name and the wrapper from the names in the file.
        key = name.replace(".modules_to_save.default.", ".").replace(".lora_magnitude_vector.default.weight", MAGNITUDE)
        key = key.replace(".default.", ".")
        if key not in found or not torch.equal(found.pop(key), value):
            raise RuntimeError(f"{folder} does not hold the trained values of {name}")
    if found:
        raise RuntimeError(f"{folder} holds what was not trained: {', '.join(found)}")
