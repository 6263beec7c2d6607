"""Methods and tasks of the user's own: registered from Python, from a file given by `--plugin`, or by an installed package.

A plugin is code, so only the user chooses it: nothing named in a recipe or a folder is ever loaded. The `plugins` option of a
run records the files that defined its method and task; it is only used to report which plugin is missing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from mat_ds.config.names import RULE, is_name
from mat_ds.config.yaml_files import Tree
from mat_ds.errors import Problem, UserError
from mat_ds.methods import METHODS
from mat_ds.methods.base import Method, flaw_of
from mat_ds.runs.options import RunConfig
from mat_ds.tasks.registry import TASKS
from mat_ds.tasks.spec import Rows, TaskSpec
from mat_ds.tasks.written import read_spec

GROUP = "mat_ds.plugins"
NOTEBOOK = "a notebook"

Registered = TypeVar("Registered", bound=type[Method])

# Which file registered which plugin: ("method", "my_method") -> path. The package's own methods and tasks are not listed.
_origins: dict[tuple[str, str], Path] = {}
# Plugins loaded so far; the value is the SHA-256 of a file, and empty for a package.
_loaded: dict[str, str] = {}


def register_method(method: Registered) -> Registered:
    """Registers a method under the name in its `Settings`; works as a class decorator too.

    Raises:
        UserError: if it is not a valid method, or the name is taken. Re-running a notebook cell replaces its own method.
    """
    if flaw := flaw_of(method):
        raise UserError(_no_method(method, flaw))
    settings = method.Settings
    kind = settings.model_fields["name"].annotation
    names = get_args(kind) if get_origin(kind) is Literal else ()
    if len(names) != 1 or settings.model_fields["name"].default != names[0] or not is_name(str(names[0])):
        raise UserError(
            _no_method(
                method,
                f"its Settings do not say what it is called: {RULE}",
                'write name: Literal["my_method"] = "my_method" in them',
            )
        )
    _claim("method", names[0], METHODS, _caller())
    METHODS[names[0]] = method
    return method


def register_task(*, generate: Callable[[str], Rows] | None = None, **description: Any) -> TaskSpec:
    """Registers a task under its name.

    Args:
        generate: returns the rows of a split, given the split's name; if None, rows are read from `data.path`.
        description: the keys of a task YAML: name, text, labels, metrics, ...

    Raises:
        UserError: if the description is not valid, or the name is taken.
    """
    spec = read_spec(description, "register_task").model_copy(update={"generate": generate})
    _claim("task", spec.name, TASKS, _caller())
    TASKS[spec.name] = spec
    return spec


def load_plugins(paths: Sequence[Path] = ()) -> None:
    """Loads the plugins of installed packages (entry point group `mat_ds.plugins`), then the files; each only once.

    Raises:
        UserError: if a plugin cannot be loaded, registers a name that is taken, or is a file that registers nothing.
    """
    for entry in entry_points(group=GROUP):
        if entry.value not in _loaded:
            package = entry.dist.name if entry.dist else entry.value
            _execute(f"plugin {entry.name}", package, "mend or uninstall that package", Path(entry.value), entry.load)
            _loaded[entry.value] = ""
    for path in paths:
        _load_file(path.absolute())


def plugins_of(run: RunConfig) -> dict[str, str]:
    """The plugin files that define a run's method and task, with their SHA-256; empty for the package's own."""
    keys = (("method", run.method.name), ("task", run.task))
    origins = {_origins[key] for key in keys if key in _origins}
    return {path.name if path.is_file() else NOTEBOOK: _digest(path) for path in sorted(origins)}


def not_loaded(tree: Tree) -> Iterator[Problem]:
    """Yields a problem for each plugin that options need but that is not loaded.

    Args:
        tree: the merged options of a recipe (or a run's `config.yaml`) and overrides.
    """
    method, task, named = tree.get("method"), tree.get("task"), tree.get("plugins")
    name = method.get("name") if isinstance(method, dict) else None
    lost = [name] if isinstance(name, str) and name not in METHODS else []
    described = isinstance(task, str) and (task in TASKS or task.endswith((".yaml", ".yml")))
    own_files = isinstance(data := tree.get("data"), dict) and data.get("train")
    lost += [task] if isinstance(task, str) and not described and not own_files else []
    known = {path.name for path in _origins.values()}
    if not (lost and isinstance(named, dict)):
        return
    for file in named.keys() - known:
        yield Problem(
            "--plugin",
            None,
            f"{', '.join(lost)} came from {file}, which is not loaded",
            f"pass --plugin <path of {file}>, or, in Python, import it first",
        )


def _load_file(path: Path) -> None:
    fix = "pass a file of Python that calls mat_ds.register_method or mat_ds.register_task"
    if not path.is_file() or path.suffix != ".py":
        reason = "is not a Python file: its name does not end in .py" if path.is_file() else "there is no such file"
        raise UserError(Problem("--plugin", str(path), reason, fix))
    digest = _digest(path)
    if _loaded.setdefault(str(path), digest) != digest:
        raise UserError(Problem("--plugin", str(path), "has changed since this process loaded it", "start Python again"))
    if any(origin == path for origin in _origins.values()):
        return
    if other := next((origin for origin in _origins.values() if origin.name == path.name), None):
        raise UserError(Problem("--plugin", str(path), f"is called as another plugin, {other}", "rename one of them"))
    name = f"mat_ds_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module, loader = importlib.util.module_from_spec(spec), spec.loader

    def execute() -> None:
        sys.modules[name] = module  # pydantic resolves annotations through this entry
        loader.exec_module(module)
        if not any(origin == path for origin in _origins.values()):
            raise UserError(Problem("--plugin", str(path), "registers no method and no task", fix))

    try:
        _execute("--plugin", str(path), "mend the file", path, execute)
    except UserError:
        del _loaded[str(path)]
        sys.modules.pop(name, None)
        raise


def _execute(key: str, value: str, fix: str, path: Path, load: Callable[[], object]) -> None:
    """Runs a plugin's code; if it fails, everything it registered is undone."""
    tables: tuple[dict[Any, Any], ...] = (METHODS, TASKS, _origins)
    before = [dict(table) for table in tables]
    try:
        load()
    except BaseException as error:
        for table, kept in zip(tables, before, strict=True):
            table.clear()
            table.update(kept)
        if isinstance(error, UserError):
            reason = "; ".join(f"{problem.key} = {problem.value!r} {problem.reason}" for problem in error.problems)
            ours = all(problem.key == key for problem in error.problems)
            raise error if ours else UserError(Problem(key, value, reason, error.problems[0].fix)) from None
        if not isinstance(error, (Exception, SystemExit)):  # Ctrl-C
            raise
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f" at line {lines[-1]}" if lines else ""
        raise UserError(Problem(key, value, f"cannot be loaded: {type(error).__name__}{where}: {error}", fix)) from None


def _no_method(method: object, reason: str, fix: str = "see help(mat_ds.Method)") -> Problem:
    return Problem("register_method", getattr(method, "__name__", repr(method)), f"is not a method: {reason}", fix)


def _claim(kind: str, name: str, known: Mapping[str, object], origin: Path) -> None:
    """Records which file registers a name; raises `UserError` if the name is taken."""
    other = _origins.get((kind, name))
    cell_again = other is not None and not other.is_file() and not origin.is_file()
    if name in known and not cell_again:
        reason = f"is registered already, by {other or 'mat_ds itself'}"
        raise UserError(Problem(f"register_{kind}", name, reason, "give it another name"))
    _origins[kind, name] = origin


def _caller() -> Path:
    """The file that called this module's public function; a path that does not exist for a notebook cell."""
    return Path(sys._getframe(2).f_code.co_filename).absolute()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
