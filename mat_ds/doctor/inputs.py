"""Checks the inputs of a run: its options and DeepSpeed's JSON, as `mat-ds train` does, and whether data and model exist.

No weights are loaded, nothing is downloaded, and only the first rows of each split are read. Of data.train all are read: its
labels decide what the task is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mat_ds.doctor.disks import nearest_folder
from mat_ds.doctor.rows import Row, failed, from_problem, passed, warned
from mat_ds.errors import Problem, UserError, collect_problems
from mat_ds.tasks.hub import Hub

if TYPE_CHECKING:
    from mat_ds.ranks.world import World
    from mat_ds.runs.options import RunConfig
    from mat_ds.tasks.spec import TaskSpec

# More than one, because the first rows may lack a label.
FIRST_ROWS = 100
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
PREPARE = "run `mat-ds prepare` where the hub can be reached, such as a login node, and pass the folder it makes"


@dataclass
class Inputs:
    """The inputs of a run, as far as they could be read.

    Attributes:
        run: the options; None if none were given or they are not valid.
        tree: DeepSpeed's JSON; None if none was given or it cannot be read.
        problems: a row for each mistake in them.
    """

    run: RunConfig | None = None
    tree: dict[str, Any] | None = None
    problems: list[Row] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """The run directory, or its nearest parent that exists."""
        return nearest_folder(Path((self.run and self.run.output_dir) or "runs"))

    @property
    def checkpoints(self) -> int:
        """How many checkpoints the run keeps at the same time: `keep_last`, the best, and the one being written."""
        return (self.run.train.keep_last if self.run else 0) + 2


def read_inputs(
    recipe: Path | None, overrides: list[str], ds_config: Path | None, world: World, plugins: Sequence[Path] = ()
) -> Inputs:
    """Reads options and DeepSpeed's JSON, and finds everything that `mat-ds train` would refuse in them.

    Args:
        recipe, overrides: the options; both may be empty.
        ds_config: the path of the JSON.
        world: this rank.
        plugins: files to load first.
    """
    from mat_ds.engine.ds_config import ds_config_problems
    from mat_ds.runs.chains import chain_problems
    from mat_ds.runs.ds_config import RECIPE_SECTIONS, owned_values, read_ds_config
    from mat_ds.runs.load import DEMO_RECIPE, read_run_config
    from mat_ds.runs.options import RunConfig, combination_problems
    from mat_ds.runs.plugins import load_plugins
    from mat_ds.runs.resume import output_problems
    from mat_ds.tracking.trust import recipe_uri_problems

    found: list[Problem] = []
    run, tree = None, None
    collect_problems(found, load_plugins, plugins)
    try:
        if recipe or overrides:
            run, wrong = read_run_config(recipe, overrides, DEMO_RECIPE)
            found += wrong
        if run and not found:
            found += [*combination_problems(run, world.size), *chain_problems(run, world), *output_problems(run)]
            found += recipe_uri_problems(run.tracking.uri, recipe, overrides)
    except UserError as error:
        found += error.problems
    try:
        if ds_config:
            tree = read_ds_config(ds_config)
            # Without options, keys of the JSON that must agree with the options cannot be checked.
            others = {} if run else {**owned_values(RunConfig(), world), **RECIPE_SECTIONS}
            asked = {key: value for key, value in tree.items() if key not in others}
            found += ds_config_problems(asked, run or RunConfig(), world)
    except UserError as error:
        found += error.problems
    return Inputs(run, tree, [from_problem(problem) for problem in found])


def check_inputs(inputs: Inputs) -> Iterator[Row]:
    """Yields a row for each mistake in options and JSON, or a summary of them."""
    yield from inputs.problems
    wrong_json = any(row.name.startswith(("ds_config", "--ds_config")) for row in inputs.problems)
    if inputs.run and len(inputs.problems) == 0:
        yield passed("options", f"task {inputs.run.task}, method {inputs.run.method.name}, model {inputs.run.model.name}")
    if inputs.tree is not None and not wrong_json:
        stage = inputs.tree.get("zero_optimization", {}).get("stage", 0)
        yield passed("ds_config", f"ZeRO-{stage}, {half(inputs.tree) or 'fp32'}")


def half(tree: dict[str, Any] | None) -> str | None:
    """The half precision in DeepSpeed's JSON, `fp16` or `bf16`; None if it has none."""
    sections = {name: (tree or {}).get(name) for name in ("fp16", "bf16")}
    return next((name for name, section in sections.items() if isinstance(section, dict) and section.get("enabled")), None)


def check_data(run: RunConfig, hub: Hub) -> Iterator[Row]:
    """Checks whether every split for training and evaluation can be read, or must be downloaded first."""
    from mat_ds.tasks.examples import load_task_data
    from mat_ds.tasks.manifest import find_manifest
    from mat_ds.tasks.own_data import task_of
    from mat_ds.tasks.registry import TASKS

    spec = task_of(run.task, run.data)
    sources = [spec, *(TASKS[name] for name in spec.also_train_on)]
    if spec.generate:
        yield passed("data", f"task {spec.name} makes its own")
        return
    if run.data.own is None and not hub.offline:
        yield from (_from_hub(source, hub) for source in sources)
        return
    data = run.data.model_copy(update={"train_limit": FIRST_ROWS, "eval_limit": FIRST_ROWS})
    found: list[Problem] = []
    prepared = collect_problems(found, find_manifest, data.path)
    each = [
        source.model_copy(update={"train": {split: 1}, "also_train_on": {}}) for source in sources for split in source.train
    ]
    for part in [spec] if prepared or found else each:
        try:
            load_task_data(part, data)
        except UserError as error:
            found += (problem for problem in error.problems if problem not in found)
    yield from map(from_problem, found)
    if not found:
        splits = [*spec.dev, *(f"{source.name}/{split}" for source in sources for split in source.train)]
        yield passed("data", f"{spec.name} in {run.data.own or 'the cache'}: {', '.join(splits)} can be read")


def _from_hub(spec: TaskSpec, hub: Hub) -> Row:
    name = f"data of {spec.name}"
    if spec.hub is None:
        return failed(name, "lies on no hub", f"pass data.path=<folder>, with the files at <folder>/{spec.name}/<split>.jsonl")
    from datasets.load import CachedDatasetModuleFactory

    try:
        CachedDatasetModuleFactory(spec.hub).get_module()
        return passed(name, f"{spec.hub} is in the cache")
    except FileNotFoundError:
        pass
    if hub.reached:
        return warned(name, f"{spec.hub} is not on this machine: the run would fetch it, on every node", PREPARE)
    return failed(name, f"{spec.hub} is neither on this machine nor within reach", PREPARE)


def check_model_files(run: RunConfig, tree: dict[str, Any] | None, hub: Hub) -> Iterator[Row]:
    """Checks whether the model has all its files, and whether its weights suit the precision."""
    from mat_ds.models.source import check_folder, check_tokenizer, revision_problems
    from mat_ds.models.tiny import TINY

    name = run.model.name
    yield from map(from_problem, revision_problems(run.model))
    if name == TINY:
        yield passed("model", f"{name} is built from scratch")
        return
    folder = model_folder(name, run.model.revision)
    if folder is None:
        if hub.reached:
            yield warned("model", f"{name} is not on this machine: the run would fetch it, on every node", PREPARE)
        else:
            yield failed("model", f"{name} is neither on this machine nor within reach", PREPARE)
        return
    check_folder(str(folder))
    check_tokenizer(str(folder))
    if missing := missing_weights(folder):
        yield failed("model", f"{folder} lacks {missing}", "pass a folder written by save_pretrained, whole")
        return
    parameters, trained_in = count_parameters(folder)
    yield passed("model", f"{folder}: {parameters / 1e6:.1f} M parameters" + (f", kept in {trained_in}" if trained_in else ""))
    if trained_in == "bfloat16" and half(tree) == "fp16":
        yield warned(
            "model in fp16",
            "its weights were trained in bfloat16, whose numbers may be too large for fp16",
            "fp32 (--ds_config zero2), or bf16 on cards that have it",
        )


def model_folder(name: str, revision: str | None = None) -> Path | None:
    """The folder of a model, given its path or its name and revision on the hub; None if it is not on this machine."""
    if Path(name).is_dir() or Path(name).is_absolute() or name.startswith("."):
        return Path(name)
    from mat_ds.models.source import cached_folder

    return cached_folder(name, revision)


def missing_weights(folder: Path) -> str:
    """Names of the weight files that are missing in a model's folder, as text; empty if there are none."""
    present = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
    if present is None:
        return " or ".join(WEIGHTS[::2])
    if present.suffix != ".json":
        return ""
    parts = set(json.loads(present.read_text(encoding="utf-8"))["weight_map"].values())
    return ", ".join(sorted(part for part in parts if not (folder / part).exists()))


def count_model(run: RunConfig | None) -> int | None:
    """Number of parameters a run would train; None if the model is not on this machine, or only adapters are trained."""
    try:
        folder = None if run is None or run.model.lora else model_folder(run.model.name, run.model.revision)
        return count_parameters(folder)[0] if folder else None
    except Exception:  # check_model_files reports what is wrong with it
        return None


def count_parameters(folder: Path) -> tuple[int, str]:
    """Number of parameters of the classifier in a folder, and the dtype it was saved in. Allocates no memory for weights."""
    import torch

    from mat_ds.models.pretrained import load_config, new_model

    config = load_config(str(folder))
    with torch.device("meta"):
        model: Any = new_model(config)
    dtype = getattr(config, "dtype", None)
    return sum(parameter.numel() for parameter in model.parameters()), str(dtype or "").removeprefix("torch.")
