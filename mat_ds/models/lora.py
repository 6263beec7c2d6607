"""Low-rank adapters: everything that knows PEFT.

A frozen model with adapters and a trainable head. What the base folder had no weights for is trained and saved as well: a
frozen weight that was drawn anew could not be drawn again by whoever loads the adapters.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mat_ds.errors import Problem, UserError, raise_if_any
from mat_ds.models.fit import fit_problems, label_dimensions
from mat_ds.models.folder import check_model, file_of
from mat_ds.models.options import LoraConfig
from mat_ds.models.pretrained import load_config, load_weights
from mat_ds.sampling.keys import seed_from
from mat_ds.tasks.kinds import kind_of_model

KEY = "model"
ADAPTER = "adapter"


def add_lora(model: Any, base: str, lora: LoraConfig, fresh: list[str], seed: int) -> nn.Module:
    """The model with adapters, all of it frozen but them, its head and what was drawn anew; the same on every rank.

    Args:
        model: a transformers classifier in fp32.
        base: folder or hub id it was loaded from, which the saved adapters will name.
        lora: the options.
        fresh: names of the parameters that were not in the folder.
        seed: the run's seed.

    Raises:
        UserError: if a module asked for is not there, or PEFT does not know the architecture.
    """
    raise_if_any(_problems(model, lora))
    known = peft.utils.constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    kind, heads = kind_of_model(model.config), heads_of(model)
    drawn = sorted({name.rpartition(".")[0] for name in fresh if not _within(name, heads)})
    config = peft.LoraConfig(
        task_type=peft.TaskType[kind.peft_task],
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules or list(known[model.config.model_type]),
        modules_to_save=[*lora.modules_to_save, *drawn, *(head for head in heads if head not in kind.peft_heads)],
    )
    torch.manual_seed(seed_from(seed, "lora"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on GPT-2's transposed weights, which it then handles
        wrapped: nn.Module = peft.get_peft_model(model, config)
    path = Path(base)
    config.base_model_name_or_path = str(path.resolve()) if path.is_dir() else base
    return wrapped


def heads_of(model: Any) -> list[str]:
    """Modules between a model and its labels, by what they are called: what PEFT takes for the head, and what has a row for
    each label, which BART calls `classification_head` and XLM `sequence_summary`."""
    known = kind_of_model(model.config).peft_heads
    own = [name for name in label_dimensions(model) if not _within(name, known)]
    base = f"{model.base_model_prefix}."
    return [*known, *sorted({name.rpartition(".")[0] if name.startswith(base) else name.partition(".")[0] for name in own})]


def _within(name: str, modules: Iterable[str]) -> bool:
    """Whether a name is that of a module, or of something in it."""
    return any(f".{module}." in f".{name}." for module in modules)


def copies(model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Parameters that PEFT trains a copy of, as it does the head's: each copy and its original.

    Whoever fills the model with weights after it was given its adapters has to fill both.
    """
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        original = parameters.get(name.replace(".modules_to_save.default.", ".original_module."))
        if original is not None and original is not parameter:
            yield parameter, original


def _problems(model: Any, lora: LoraConfig) -> Iterator[Problem]:
    """Modules asked for that the model does not have, with those it has."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    heads = heads_of(model)
    linear = [name for name in linear if not _within(name, heads)]
    if lora.target_modules is None:
        if model.config.model_type not in peft.utils.constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING:
            yield Problem(
                "model.lora.target_modules",
                None,
                f"PEFT has no choice of its own for {model.config.model_type}",
                f"name some of: {_ends(linear)}",
            )
    elif missing := [name for name in lora.target_modules if not any(_named(module, name) for module in linear)]:
        yield Problem(
            "model.lora.target_modules",
            lora.target_modules,
            f"no linear layer is called {', '.join(missing)}",
            f"there are: {_ends(linear)}",
        )
    modules = [name for name, module in model.named_modules() if name and next(module.parameters(), None) is not None]
    if missing := [name for name in lora.modules_to_save if not any(_named(module, name) for module in modules)]:
        yield Problem(
            "model.lora.modules_to_save",
            lora.modules_to_save,
            f"no module is called {', '.join(missing)}",
            f"there are: {_ends(modules)}",
        )


def _named(module: str, end: str) -> bool:
    return module == end or module.endswith(f".{end}")


def _ends(names: list[str]) -> str:
    """The last parts of names, numbers left out."""
    return ", ".join(sorted({end for name in names if not (end := name.rpartition(".")[2]).isdigit()}))


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds adapters of a model that lies elsewhere."""
    return (folder / "adapter_config.json").exists()


def write_adapter(model: Any, weights: Mapping[str, Tensor], folder: Path, merge: bool) -> None:
    """Saves the adapters and the head, safetensors and the name of their base, and the classifier's config.

    Args:
        model: what `add_lora` returned; only its structure is used.
        weights: fp32 values of its trainable parameters, by name.
        folder: where to; with `merge` the adapters go to a folder `adapter` in it.
        merge: whether to put the whole model, its adapters added to its weights, into `folder`.

    Raises:
        RuntimeError: if the files do not hold what they were given.
    """
    target = folder / ADAPTER if merge else folder
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the base's config, for which the hub is asked, may not be reached
        model.save_pretrained(str(target), state_dict=dict(weights), save_embedding_layers=False)
    (target / "README.md").unlink(missing_ok=True)  # a model card of blanks
    model.config.save_pretrained(str(target))
    _check_saved(weights, target)
    if merge:
        whole: Any = load_adapter(target, torch.float32)
        whole.merge_and_unload().save_pretrained(str(folder))


def load_adapter(folder: Path, dtype: torch.dtype) -> nn.Module:
    """The base that a folder of `write_adapter` names, as the classifier its config describes, with its adapters.

    Raises:
        UserError: if the base is not where the folder says, or weights of either would have to be drawn.
    """
    name = str(folder)
    config = load_config(name, KEY, adapters=True)
    saved = peft.PeftConfig.from_pretrained(name)
    base = str(saved.base_model_name_or_path)
    _check_base(folder, base)
    module, loading = load_weights(base, config, dtype)
    raise_if_any(fit_problems(KEY, base, module, loading))
    model: nn.Module = peft.PeftModel.from_pretrained(module, name, autocast_adapter_dtype=False)
    drawn = {*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])}
    wanted = {*peft.get_peft_model_state_dict(model), *(f"base_model.model.{key}" for key in drawn)}
    if lacking := sorted(wanted - set(peft.utils.load_peft_weights(name, device="cpu"))):
        raise UserError(Problem(KEY, name, f"its adapters lack {', '.join(lacking[:3])}, which would be drawn at random",
                                "bring the whole folder, as training wrote it"))  # fmt: skip
    return model.to(dtype)


def _check_base(folder: Path, base: str) -> None:
    """Raises `UserError` if the base of adapters is not to be had where they say, or is no model of its own."""
    file = folder / "adapter_config.json"
    local = Path(base).is_absolute() or base.startswith((".", "~")) or len(Path(base).parts) > 2
    fix = f"bring the base there, or let base_model_name_or_path in {file} name the folder where it lies now"
    if local and not Path(base).is_dir():
        raise UserError(
            Problem(
                KEY, str(folder), f"holds adapters of {base}, as adapter_config.json says, and there is no such folder", fix
            )
        )
    if not local and not Path(base).is_dir() and file_of(base, "config.json") is None:
        raise UserError(Problem(KEY, str(folder), f"holds adapters of {base}, as adapter_config.json says: there is no such "
                                "folder, and the hub does not give it", fix))  # fmt: skip
    check_model(KEY, base)


def _check_saved(weights: Mapping[str, Tensor], folder: Path) -> None:
    """Compares what lies in the file with what was to be saved: ZeRO-3 has more than once left a head of no elements."""
    from safetensors.torch import load_file

    found = load_file(folder / "adapter_model.safetensors")
    for name, value in weights.items():
        # A file names no adapter, and the head as if it stood where the wrapper stands.
        key = name.replace(".modules_to_save.default.", ".").replace(".default.", ".")
        if key not in found or not torch.equal(found.pop(key), value):
            raise RuntimeError(f"{folder} does not hold the trained values of {name}")
    if found:
        raise RuntimeError(f"{folder} holds what was not trained: {', '.join(found)}")
