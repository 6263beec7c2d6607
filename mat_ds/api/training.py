"""`mat_ds.train`: trains a model from Python."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mat_ds.api.models import PathOrText, Plugins, load, plugin_paths
from mat_ds.api.session import as_overrides, raising, session
from mat_ds.config.yaml_files import read_yaml
from mat_ds.errors import Problem, UserError
from mat_ds.ranks.world import World
from mat_ds.storage.events import read_events
from mat_ds.storage.reading import read_json
from mat_ds.storage.rundir import RunDirectory
from mat_ds.terminal.library_logs import LibraryLogs
from mat_ds.training.request import read_request

if TYPE_CHECKING:
    from mat_ds.evaluation.predictor import Predictor


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: its directory.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        if not RunDirectory(self.path).results.is_file():
            raise UserError(Problem("run", str(self.path), "is not a finished run", "pass runs/<run>"))

    @property
    def model(self) -> Path:
        """Folder of the trained model, loadable with plain transformers."""
        return RunDirectory(self.path).model

    @cached_property
    def results(self) -> dict[str, Any]:
        """Contents of `results.json`: the `last` and `best` scores, `export`, seconds, ..."""
        return read_json(RunDirectory(self.path).results, "let the run go on from its last checkpoint (train.resume=auto)")

    @property
    def score(self) -> float:
        """Score of the model in `model/`, as loaded with plain transformers."""
        return float(self.results["export"]["score"])

    @cached_property
    def options(self) -> dict[str, Any]:
        """All options of the run, by section."""
        return read_yaml(RunDirectory(self.path).config)

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events in order: `step`, `evaluation`, `checkpoint`, ..."""
        return read_events(RunDirectory(self.path).events)

    def load(self) -> Predictor:
        """Loads the trained model."""
        return load(self.path)


def train(
    options: Mapping[str, Any] | None = None,
    /,
    *,
    recipe: PathOrText | None = None,
    ds_config: PathOrText | Mapping[str, Any] | None = None,
    plugin: Plugins = (),
    quiet: bool = False,
    **keywords: Any,
) -> Run:
    """Trains a model to the end in this process; under a launcher, as one rank of the run.

    Args:
        options, keywords: options of the run, by dotted name or as one mapping per section; they override the recipe.
        recipe: a YAML file of options, or the name of a packaged one.
        ds_config: DeepSpeed's configuration, the path of its JSON file, or the name of a packaged one; None: `zero2`.
        plugin: a Python file, or several, to load first: it registers a method or a task.
        quiet: whether to print only warnings and the result.

    Raises:
        UserError: naming everything wrong with options, data or model, before training starts.
        Interrupted: if it was stopped, as by Ctrl-C; progress has been saved.
        NonFiniteError, SaveError, Displaced: see `mat_ds.errors`.
    """
    twice = [name for name in options or {} if name in keywords]
    if twice:
        raise UserError(Problem(twice[0], keywords[twice[0]], "is given twice, by name and in the mapping", "give it once"))
    with tempfile.TemporaryDirectory() as folder:
        arguments = [*_flags(recipe, ds_config, plugin, Path(folder)), *(["--quiet"] if quiet else [])]
        arguments += as_overrides({**(options or {}), **keywords})
        request = read_request(arguments, World.from_environment())
    # Only now, as they import torch and DeepSpeed: seconds.
    from mat_ds.planning.choice import choose_micro_batch
    from mat_ds.training.preflight import load_setup
    from mat_ds.training.run import run_on

    with session() as world, LibraryLogs(kept=world.rank == 0) as library_logs:
        _, rundir = run_on(load_setup(request, world, choose_micro_batch), world, library_logs, raising)
    assert rundir is not None  # this is not a dry run
    return Run(rundir.path.absolute())


def _flags(
    recipe: PathOrText | None,
    ds_config: PathOrText | Mapping[str, Any] | None,
    plugin: Plugins,
    folder: Path,
) -> Iterator[str]:
    """The files of `train` as flags of `mat-ds train`; a DeepSpeed configuration in Python is written to `folder`."""
    config = _file_of(ds_config, folder) if isinstance(ds_config, Mapping) else ds_config
    for flag, file in (("--recipe", recipe), ("--ds_config", config), *(("--plugin", path) for path in plugin_paths(plugin))):
        if file is not None:
            yield from (flag, str(file))


def _file_of(ds_config: Mapping[str, Any], folder: Path) -> str:
    """Writes a DeepSpeed configuration to a file in `folder` and returns its path."""
    try:
        (folder / "ds_config.json").write_text(json.dumps(ds_config))
    except (TypeError, ValueError) as error:
        raise UserError(
            Problem("ds_config", str(ds_config), f"is not JSON: {error}", "pass numbers, texts and mappings")
        ) from None
    return str(folder / "ds_config.json")
