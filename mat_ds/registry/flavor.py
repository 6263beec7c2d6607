"""Makes one folder of a run's model, and saves it in MLflow's transformers flavor.

Its python_function answers raw texts like `mat-ds predict`. It refers to nothing outside: no base model on the hub, no local
path. Only adapters kept beside it name their base.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.metadata import version
from inspect import getfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow.pyfunc
import mlflow.transformers
import pandas
import torch
import transformers
from huggingface_hub import ModelCard
from mlflow.models import Model, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array, Object, Property
from packaging.version import Version
from transformers.pipelines import PIPELINE_REGISTRY

from mat_ds.artifacts.calibrated import FILE as TEMPERATURE
from mat_ds.artifacts.calibrated import temperature_of
from mat_ds.artifacts.card import CARD, write_card
from mat_ds.artifacts.described import FILE, Description, write_description
from mat_ds.artifacts.exported import load_classifier
from mat_ds.artifacts.finished import Finished
from mat_ds.artifacts.member_weights import merged_model, write_differences
from mat_ds.artifacts.members import ABSTENTION, SNAPSHOTS
from mat_ds.artifacts.robustness import with_robustness
from mat_ds.models.build import longest_input
from mat_ds.models.folder import ADAPTER, is_adapter
from mat_ds.models.pretrained import load_config, load_tokenizer, new_model
from mat_ds.storage.disk import write_text
from mat_ds.storage.reading import read_json
from mat_ds.tasks.kinds import KINDS, kind_of
from mat_ds.tasks.kinds.base import Kind

PACKAGES = ("mlflow", "torch", "transformers", "tokenizers", "safetensors", "huggingface-hub", "numpy", "pandas")
SERVED_MODEL, MODEL = Path(__file__).with_name("served_model"), "model"


def save_flavor(
    source: Path,
    adapter: Path | None,
    known: Description,
    path: Path,
    mlflow_model: Model,
    members: Sequence[Path] = (),
    robustness: str = "",
) -> None:
    """Writes a model that MLflow can load.

    Args:
        source: a folder with whole weights, config, tokenizer and card.
        adapter: adapters that were merged into it, to be kept beside it.
        known: its task and maximum input length.
        path: target folder, must not exist.
        mlflow_model: MLflow's metadata, completed here.
        members: folders of the snapshots that are its mixture; what has no probabilities is saved without.
        robustness: a section for its card.
    """
    kind = kind_of(known.spec)
    members = members if kind.calibrates else ()
    fitted = members[0].with_name(ABSTENTION) if members else None
    steps = read_json(fitted, "bring it back from a copy")["steps"] if fitted and fitted.exists() else None
    temperature = temperature_of(source, str(source)) if (source / TEMPERATURE).exists() else None
    row = kind.served_row
    unnamed = [*row.values()] if [*row] == ["text"] else None
    function: dict[str, Any] = {
        mlflow.pyfunc.MAIN: f"{SERVED_MODEL.name}.{kind.server}",
        mlflow.pyfunc.MODEL_CONFIG: {
            "max_length": known.max_length,
            "text": list(kind.columns),
            **kind.served_options,
            "temperature": temperature,
            **({"abstention": steps} if steps else {}),
        },
    }
    with TemporaryDirectory() as scratch:
        code = Path(scratch) / SERVED_MODEL.name
        shutil.copytree(SERVED_MODEL, code, ignore=shutil.ignore_patterns("__pycache__"))
        # Of all kinds: a process that serves models of several imports the folder of one of them.
        for name in (name for each in KINDS.values() for name in each.served_with):
            shutil.copy2(Path(getfile(Kind)).with_name(f"{name}.py"), code)
        form: dict[str, Any] = {
            "mlflow_model": mlflow_model,
            "code_paths": [str(code)],
            "signature": signature_of(kind, temperature is not None, bool(members)),
            "pip_requirements": pinned(),
            "input_example": unnamed or pandas.DataFrame([row]),
        }
        if kind.pipeline in PIPELINE_REGISTRY.get_supported_tasks():
            # An absolute path: MLflow would look up a relative one as an id on the hub, for its licence.
            model, tokenizer = load_classifier(source.resolve(), torch.float32, torch.device("cpu"))
            # A pipeline, not the folder: MLflow 3.17 does not know the pipelines of transformers 5.23 when given a folder.
            build: Any = transformers.pipeline
            pipeline = build(kind.pipeline, model=model, tokenizer=tokenizer, device="cpu", trust_remote_code=False)
            card = _card(source, robustness)
            mlflow.transformers.save_model(pipeline, str(path), task=kind.pipeline, model_card=card, **form)
            mlflow_model.flavors[mlflow.transformers.FLAVOR_NAME]["source_model_name"] = known.spec.name
        else:  # the kind's server loads the model's folder itself
            shutil.copytree(source, Path(scratch) / MODEL, ignore=shutil.ignore_patterns(ADAPTER))
            loader, data = function[mlflow.pyfunc.MAIN], str(Path(scratch) / MODEL)
            mlflow.pyfunc.save_model(str(path), loader_module=loader, data_path=data, **form)
            shutil.move(path / "data" / MODEL, path / MODEL)  # where the models of all other kinds are
            (path / "data").rmdir()
            function[mlflow.pyfunc.DATA] = MODEL
    mlflow_model.flavors[mlflow.pyfunc.FLAVOR_NAME] |= function
    mlflow_model.save(str(path / MLMODEL_FILE_NAME))
    (path / "LICENSE.txt").unlink(missing_ok=True)  # MLflow's note that it found no licence on the hub
    for file in source.iterdir():  # makes `path / "model"` a complete model folder
        if file.is_file() and not (path / "model" / file.name).exists() and file.suffix not in (".safetensors", ".bin"):
            shutil.copy2(file, path / "model" / file.name)
    if robustness:
        write_text(path / "model" / CARD, str(_card(source, robustness)))
    if adapter:
        shutil.copytree(adapter, path / ADAPTER)
    if members:
        model = load_classifier(source.resolve(), torch.float32, torch.device("cpu"))[0]
        for member in members:
            write_differences(merged_model(member), model, path / SNAPSHOTS / member.name)
        if fitted and fitted.exists():
            shutil.copy2(fitted, path / SNAPSHOTS / ABSTENTION)


def _card(source: Path, robustness: str) -> ModelCard:
    """A model's card, with a section in the place of the one it has."""
    card = ModelCard.load(source / CARD)
    card.text = with_robustness(card.text, robustness) if robustness else card.text
    return card


def signature_of(kind: Kind, calibrates: bool = False, mixes: bool = False) -> ModelSignature:
    """MLflow signature of the outputs only: an input signature would make MLflow misread unnamed texts, or reject lists of
    texts. If the model `calibrates`, a request may ask for it with the parameter `calibrated`;
    if it `mixes`, for what `Members.asked` of its server says."""
    columns: list[Any] = []
    for name, types in kind.answer_types.items():
        columns.append(ColSpec(_column_type(types), name))
    names = [*(["calibrated"] if calibrates else []), *(["mixture", "uncertainty"] if mixes else [])]
    params = [ParamSpec(name, DataType.boolean, False) for name in names]
    params += [ParamSpec("abstain", DataType.double, 0.0)] if mixes else []
    return ModelSignature(outputs=Schema(columns), params=ParamSchema(params) if params else None)  # type: ignore[arg-type]


def _column_type(types: Any) -> Any:
    """MLflow's form of a type of `Kind.answer_types`."""
    if isinstance(types, list):
        inner = _column_type(types[0])
        return Array(DataType[inner] if isinstance(inner, str) else inner)
    if isinstance(types, dict):
        return Object([Property(key, _column_type(type_)) for key, type_ in types.items()])
    return types


def pinned() -> list[str]:
    """Requirements with the installed versions, without local parts such as +cu121."""
    return [f"{name}=={Version(version(name)).public}" for name in PACKAGES]


def whole_model(finished: Finished, target: Path) -> tuple[Path, Path | None]:
    """The run's model as one folder, and the folder of its adapters or None.

    Args:
        finished: the run; a missing card or description is added to its `model/`.
        target: where to write a copy, if `model/` has adapters.
    """
    folder = finished.folder.model
    if not (folder / CARD).exists():
        write_card(finished, folder)
    if not (folder / FILE).exists():
        write_description(folder, Description(finished.spec, finished.max_length))
    if is_adapter(folder):
        model, tokenizer = load_classifier(folder, torch.float32, torch.device("cpu"))
        model.merge_and_unload().save_pretrained(str(target))
        tokenizer.save_pretrained(str(target))
        for name in (FILE, TEMPERATURE):
            if (folder / name).exists():
                shutil.copy2(folder / name, target / name)
        write_card(finished, target)
        return target, folder
    if (folder / ADAPTER).is_dir():
        shutil.copytree(folder, target, ignore=shutil.ignore_patterns(ADAPTER))
        return target, folder / ADAPTER
    return folder, None


def effective_length(folder: Path, max_length: int) -> int:
    """Maximum tokens of inputs: the run's, but no more than model and tokenizer accept."""
    with torch.device("meta"):
        model = new_model(load_config(str(folder), "model", adapters=True))
    return min(max_length, longest_input(model, load_tokenizer(str(folder), "model", adapters=True)))
