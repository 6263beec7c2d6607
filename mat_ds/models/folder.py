"""Checks an untrusted model before libraries read it: it must not run code, block, or refer to anything outside its folder.

Only data is trusted. Weights are read by safetensors, or by torch without unpickling objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from mat_ds.errors import Problem, UserError, raise_if_any
from mat_ds.storage.reading import read_json
from mat_ds.tasks.hub import expect_from_hub

CONFIG, TOKENIZER_CONFIG, ADAPTER_CONFIG = "config.json", "tokenizer_config.json", "adapter_config.json"
# A checkpoint's folder of adapters beside the whole model.
ADAPTER = "adapter"
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
# Suffixes that transformers and PEFT read. Each must be a regular file, since opening a pipe would block.
READ = (".json", ".safetensors", ".bin", ".model", ".txt", ".jinja")
AS_WRITTEN = "restore the file as save_pretrained wrote it"

# Maximum values in a config.json; libraries would loop over larger ones for hours.
MOST = {"num_labels": 100_000} | dict.fromkeys((
    "num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers", "num_encoder_layers",
    "num_decoder_layers", "num_experts", "num_local_experts", "n_routed_experts",
), 10_000)  # fmt: skip

# Keys of `auto_map` whose classes transformers would load.
LOADED = ("AutoConfig", "AutoTokenizer", "AutoModel")
OWN_KERNELS = (None, "eager", "sdpa", "flex_attention")
KERNELS = ("attn_implementation", "experts_implementation")
CONVERT = (
    "convert it to an architecture that transformers has and save that, or install its code as a package that registers it "
    "with transformers"
)


def is_adapter(folder: Path) -> bool:
    """Whether a folder contains adapters instead of a whole model."""
    return (folder / ADAPTER_CONFIG).exists()


def check_model(key: str, name: str, adapters: bool = False, revision: str | None = None) -> None:
    """Checks every file that decides what is loaded for a model.

    Args:
        key: the option that named the model.
        name: a folder or a hub id.
        adapters: whether it may be adapters of another model.
        revision: of a hub id.

    Raises:
        UserError: naming every problem; missing files are not a problem here.
    """
    problems: list[Problem] = []
    if Path(name).is_dir():
        problems += _irregular(key, Path(name))
    if not problems:
        for file in (CONFIG, TOKENIZER_CONFIG, ADAPTER_CONFIG, *INDICES):
            path = file_of(name, file, revision)
            if path is None:
                continue
            try:
                problems += _wrong(key, name, file, read_object(key, path), adapters)
            except UserError as error:
                problems += error.problems
    raise_if_any(problems)


def file_of(name: str, file: str, revision: str | None = None) -> Path | None:
    """Path of a model's file, or None; for a hub id it comes from the cache or is downloaded."""
    if Path(name).is_dir():
        path = Path(name) / file
        return path if path.exists() else None
    expect_from_hub(name)
    from transformers.utils.hub import cached_file

    with suppress(Exception):  # whoever needs the file reports why it is missing
        found = cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False,
                            _raise_exceptions_for_connection_errors=False, _raise_exceptions_for_gated_repo=False)  # fmt: skip
        return Path(found) if found else None
    return None


def read_object(key: str, path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UserError: if it cannot be read, or holds something else.
    """
    return read_json(path, AS_WRITTEN, key, links=True)


def _irregular(key: str, folder: Path) -> Iterator[Problem]:
    """Yields a problem for each entry that is named like a file to read but is not a regular file."""
    for path in sorted(folder.iterdir()):
        if path.suffix in READ and not path.is_file():
            kind = "a folder" if path.is_dir() else "a link that leads nowhere" if path.is_symlink() else "not a regular file"
            yield Problem(key, str(path), f"is {kind}", "put the file there, or remove it")


def _wrong(key: str, name: str, file: str, tree: dict[str, Any], adapters: bool) -> Iterator[Problem]:
    """Yields the problems in one file."""
    if file in INDICES:
        yield from _index_problems(key, name, file, tree)
        return
    if classes := sorted(set(_foreign_classes(tree, every=file == CONFIG and not _supported(tree.get("model_type"))))):
        yield Problem(key, name, f"needs code of its own: auto_map in {file} names {', '.join(classes)}, but code that comes "
                      "with a model is never run", CONVERT)  # fmt: skip
    for option, value in sorted(set(_foreign_kernels(tree))):
        yield Problem(key, name, f"{option} in {file} asks for {value}, but code is never fetched for a model",
                      f"delete {option} from {file}; model.attention chooses between sdpa and eager")  # fmt: skip
    for option in ("configuration_files", "transformers_weights"):
        if tree.get(option) and file == CONFIG:
            yield Problem(key, name, f"{option} in {file} names other files to read",
                          f"delete {option}, and give the files the names that save_pretrained gives them")  # fmt: skip
    if tree.get("quantization_config") and file == CONFIG:
        yield Problem(
            key, name, "its weights are quantised, so training and scores would be of rounded weights", "use the original model"
        )
    for option, value in _oversized(tree) if file == CONFIG else ():
        yield Problem(key, name, f"{option} in {file} is {value}, more than {MOST[option]:,}", AS_WRITTEN)
    if file == ADAPTER_CONFIG:
        yield from _adapter_problems(key, name, tree, adapters)


def _adapter_problems(key: str, name: str, tree: dict[str, Any], wanted: bool) -> Iterator[Problem]:
    """Yields the problems with a folder of adapters, or the problem that adapters are not allowed here."""
    base = tree.get("base_model_name_or_path")
    if not wanted:
        yield Problem(key, name, f"holds adapters of {base!r} ({ADAPTER_CONFIG}), not a whole model",
                      "merge them with `mat-ds export <folder> <new folder> --merge`, or pass their base")  # fmt: skip
        return
    if not isinstance(base, str) or not base or "://" in base:
        yield Problem(key, name, f"{ADAPTER_CONFIG} names {base!r} as their base", "let base_model_name_or_path be the folder "
                      "or the hub id of the model they were trained on")  # fmt: skip
    if tree.get("peft_type") != "LORA":
        yield Problem(key, name, f"its adapters are of the kind {tree.get('peft_type')!r}, but only LORA is supported",
                      "merge them into their base with PEFT, and pass the whole model")  # fmt: skip
    library = mapping.get("parent_library") if isinstance(mapping := tree.get("auto_mapping"), dict) else mapping
    if tree.get("megatron_config") or (library and str(library).partition(".")[0] != "transformers"):
        yield Problem(
            key, name, f"needs code that {ADAPTER_CONFIG} names (auto_mapping, megatron_config), but that is never run", CONVERT
        )


def _index_problems(key: str, name: str, file: str, tree: dict[str, Any]) -> Iterator[Problem]:
    """Yields a problem if an index names anything but files in the same folder."""
    files = tree.get("weight_map")
    if not isinstance(files, dict) or not files:
        yield Problem(key, name, f"{file} has no weight_map", AS_WRITTEN)
        return
    outside = {repr(part) for part in files.values() if not isinstance(part, str) or Path(part).name != part or part == ".."}
    if outside:
        yield Problem(key, name, f"{file} names {', '.join(sorted(outside)[:3])}, which is not a file beside it", AS_WRITTEN)


def _objects_in(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the tree and every object in it, at any depth."""
    left: list[Any] = [tree]
    while left:
        found = left.pop()
        if isinstance(found, dict):
            yield found
        left += found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()


def _oversized(tree: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields options whose value exceeds `MOST`."""
    for section in _objects_in(tree):
        for option, value in section.items():
            if option in MOST and isinstance(value, int | float) and not value <= MOST[option]:
                yield option, value


def _foreign_classes(tree: dict[str, Any], every: bool) -> Iterator[str]:
    """Yields the classes in a configuration that transformers does not have.

    Models that were published before transformers supported them still name classes of their own. These are accepted.

    Args:
        tree: the configuration.
        every: whether to yield all classes, because transformers lacks the architecture.
    """
    import transformers

    for section in _objects_in(tree):
        named = section.get("auto_map") or {}
        for auto, classes in named.items() if isinstance(named, dict) else [("AutoTokenizer", named)]:
            if str(auto).startswith(LOADED):
                for found in classes if isinstance(classes, list) else [classes]:
                    known = isinstance(found, str) and not every and _has(transformers, found.rpartition(".")[2])
                    if found is not None and not known:
                        yield str(found)


def _supported(architecture: Any) -> bool:
    """Whether transformers or an installed package provides an architecture."""
    return isinstance(architecture, str) and architecture in _architectures()


def _architectures() -> Any:
    """The architectures that transformers knows, by name."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING


def _has(library: Any, name: str) -> bool:
    """Whether a library has a class of this name, or one was registered with it."""
    registered: dict[Any, Any] = _architectures()._extra_content
    return name.isidentifier() and (hasattr(library, name) or name in {kind.__name__ for kind in registered.values()})


def _foreign_kernels(tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields kernels that would be downloaded."""
    for section in _objects_in(tree):
        for option, value in section.items():
            if option.strip("_").removesuffix("_internal") in KERNELS:
                for found in value.values() if isinstance(value, dict) else [value]:
                    if found not in OWN_KERNELS and found not in ("batched_mm", "grouped_mm"):
                        yield option, repr(found)
