"""`mat-ds prepare`: writes model and tokenised data of a run to one folder, so that training needs no network."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mat_ds.config.packaged import RECIPES
from mat_ds.errors import ExitCode, Problem, UserError, collect_problems, printable, raise_if_any
from mat_ds.models.options import ModelConfig
from mat_ds.models.source import check_place, hub_names
from mat_ds.models.tiny import TINY
from mat_ds.ranks.exits import attempt
from mat_ds.ranks.processors import share_processors
from mat_ds.runs.load import DEMO_RECIPE, read_run_config
from mat_ds.runs.options import RunConfig
from mat_ds.runs.plugins import load_plugins
from mat_ds.runs.trainer_names import renamed
from mat_ds.storage.folders import write_folder
from mat_ds.tasks.example import Example, whole_examples
from mat_ds.tasks.examples import TaskData, check_sources, load_task_data, train_splits
from mat_ds.tasks.hub import expect_from_hub
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.manifest import DATA, MANIFEST, MODEL, Manifest, damage, find_manifest, write_manifest
from mat_ds.tasks.own_data import task_of
from mat_ds.tasks.rows import skipped_lines
from mat_ds.tasks.stored import store_examples
from mat_ds.terminal.display import show
from mat_ds.terminal.parser import Parser, add_plugin_argument
from mat_ds.terminal.process import importing
from mat_ds.terminal.waiting import waiting

if TYPE_CHECKING:
    from mat_ds.models.build import Built

# Options that a prepared folder takes the place of.
REPLACED = ("data.path", "data.revision", "model.name", "model.revision")
EXAMPLE = "mat-ds prepare prepared/cola --recipe cola data.max_length=128"


def main(arguments: Sequence[str]) -> ExitCode:
    """Runs the command and returns its exit code."""
    share_processors(1)
    return attempt(lambda: _prepare(parse(arguments)))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the command line; raises `UserError` if it is invalid."""
    parser = Parser("prepare", __doc__, EXAMPLE, renamed)
    parser.add_argument("folder", type=Path, help="target folder; an existing prepared folder is replaced")
    parser.add_argument("--recipe", type=RECIPES.argument, metavar="FILE", help="the run's recipe")
    parser.add_argument("--verify", action="store_true", help="only compare the folder's files with its manifest")
    add_plugin_argument(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="the run's options")
    return parser.parse_intermixed_args(arguments)


def _prepare(parsed: argparse.Namespace) -> None:
    if parsed.verify:
        show(verify_prepared(parsed.folder))
        return
    load_plugins(parsed.plugin)
    source = gather(parsed)
    manifest = write_prepared(source, parsed.folder)
    for name, tally in manifest.splits.items():
        show(f"{name}: {tally.kept:,} examples")
    for line in skipped_lines(manifest.splits):
        show(f"skipped {line}")
    show(f"inputs are cut at {manifest.max_length} tokens")
    if _is_folder(source.run.model.name):
        show(f"{source.run.model.name} is a folder already and was not copied: copy it along")
    show(f"{parsed.folder}: {_size_text(manifest)}\n\ntrain with\n    {_training(source, parsed)}")


@dataclass(frozen=True)
class RunInput:
    """The validated inputs of a prepared folder.

    Attributes:
        run: the options it is prepared for; data limits are left to the run that trains.
        data, tokenizer, built: examples, tokenizer and model, as training would load them.
    """

    run: RunConfig
    data: TaskData
    tokenizer: Any
    built: Built

    @property
    def splits(self) -> Iterator[tuple[str, Sequence[Example]]]:
        """Yields the name (`train/<task>/<split>`, `dev/...` or `test/...`) and examples of every split: whole ones, which
        a run cuts into the parts that its options ask for."""
        first, train = 0, whole_examples(self.data.train)
        for task, split, repeats in train_splits(self.data.spec):
            name = f"{task.name}/{split}"
            kept = self.data.tallies[name].kept
            yield f"train/{name}", train[first : first + kept]
            first += kept * repeats
        for part, splits in (("dev", self.data.dev), ("test", self.data.test)):
            own = ((f"{part}/{self.data.spec.name}/{split}", whole_examples(examples)) for split, examples in splits.items())
            yield from own


def gather(parsed: argparse.Namespace) -> RunInput:
    """Loads and checks model and data.

    Raises:
        UserError: naming every problem found.
    """
    found: list[Problem] = []
    run, wrong = collect_problems(found, read_run_config, parsed.recipe, parsed.overrides, DEMO_RECIPE) or (None, [])
    found += [*wrong, *_folder_problems(parsed.folder, run)]
    if run is None:
        raise UserError(*found)
    model = ModelConfig(name=run.model.name, revision=run.model.revision)
    named = "task" not in {problem.key for problem in wrong}
    spec = collect_problems(found, task_of, run.task, run.data) if named else None
    collect_problems(found, check_sources, spec, run.data)
    collect_problems(found, check_place, model.name)
    raise_if_any(found)
    assert spec
    expect_from_hub(*hub_names(model.name, (task for task, *_ in train_splits(spec)), run.data.path))
    with importing():  # only now, as it takes seconds
        from mat_ds.models.build import build_model, build_tokenizer, longest_input
        from mat_ds.models.vocabulary import vocabulary_problems
        from mat_ds.tasks.tokens import with_tokens

    whole = run.data.model_copy(update={"train_limit": None, "eval_limit": None})
    with waiting(f"reading the data of {spec.name}"):
        data = collect_problems(found, load_task_data, spec, whole)
    texts = (text for example in (data.train if data else ()) for text in example.texts)
    tokenizer = collect_problems(found, build_tokenizer, model, texts)
    # A model that is not copied need not be read.
    unread = _is_folder(model.name)
    with waiting(f"loading {model.name}"):
        built = collect_problems(found, build_model, model, spec, tokenizer, run.seed, unread) if tokenizer else None
    if data and built:
        longest = min(run.data.max_length, longest_input(built.module, tokenizer))
        data = collect_problems(found, with_tokens, data, tokenizer, longest, run.data) or data
        splits = (data.train, *data.dev.values(), *data.test.values())
        found += vocabulary_problems("model.name", run.model.name, built.module, tokenizer, splits, longest, kind_of(spec))
    raise_if_any(found)
    assert data and built
    return RunInput(run, data, tokenizer, built)


def _folder_problems(folder: Path, run: RunConfig | None) -> Iterator[Problem]:
    """Yields problems if the folder cannot be written, contains the run's own sources, or several processes would write it."""
    shown, path = str(folder), folder.absolute()
    if path.exists() and not (path.is_dir() and (not any(path.iterdir()) or _is_prepared(shown))):
        yield Problem("folder", shown, "exists and is not a prepared folder", "name a new folder")
    existing = next(parent for parent in path.parents if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        yield Problem("folder", shown, f"{existing} is not a writable folder", "name another folder")
    if run and path.resolve() in (Path(run.model.name).resolve(), *Path(run.model.name).resolve().parents):
        yield Problem("model.name", run.model.name, f"lies in {shown}, which would be replaced", "name the model's own folder")
    if run and _is_prepared(run.data.path):
        yield Problem("data.path", run.data.path, "is prepared already", "name the files it was prepared from")
    if (ranks := os.environ.get("WORLD_SIZE", "1")) != "1":
        yield Problem("ranks", ranks, "prepare must run in a single process", "start it without a launcher")


def _is_folder(model: str) -> bool:
    """Whether a model is a local folder, which is not copied."""
    return model != TINY and Path(model).is_dir()


def _is_prepared(path: str | None) -> bool:
    return collect_problems([], find_manifest, path) is not None


def write_prepared(source: RunInput, folder: Path) -> Manifest:
    """Writes the prepared folder atomically, and returns its manifest."""
    from mat_ds.models.build import build_model, build_tokenizer, longest_input

    run, spec = source.run, source.data.spec
    options = {
        "task": run.task,
        "data.path": run.data.path,
        "data.max_length": run.data.max_length,
        "data.bad_rows": run.data.bad_rows,
        "model.name": run.model.name,
    }
    asked: dict[str, Any] = {
        "data.train": run.data.train,
        "data.validation": run.data.validation,
        "data.dev_share": run.data.dev_share,
        "data.revision": run.data.revision,
        "model.revision": run.model.revision,
    }
    options |= {name: value for name, value in asked.items() if value is not None}
    options |= {"seed": run.seed} if run.model.name == TINY else {}  # the tiny model's weights depend on it
    tasks = (spec, *(task for task, *_ in train_splits(spec)))

    def fill(aside: Path) -> None:
        tokenizer, built = source.tokenizer, source.built
        if not _is_folder(run.model.name):
            save_model(built, tokenizer, aside / MODEL)
            # Tokenise with the saved tokenizer, as training will load that.
            saved = ModelConfig(name=str(aside / MODEL))
            tokenizer = build_tokenizer(saved, ())
            built = build_model(saved, spec, tokenizer, run.seed, leave_unread=True)
        max_length = min(run.data.max_length, longest_input(built.module, tokenizer))
        for name, examples in source.splits:
            store_examples(aside / DATA / name, examples, tokenizer, max_length, spec)
        write_manifest(aside, tasks, options, tokenizer, max_length, source.data.tallies)

    write_folder(folder.absolute(), fill)
    manifest = find_manifest(str(folder))
    assert manifest
    return manifest


def save_model(built: Built, tokenizer: Any, folder: Path) -> None:
    """Saves a model without its randomly initialised weights (such as a new head), so that each run initialises them with its
    own seed; if all weights are random, all are left out."""
    weights = {name: value for name, value in built.module.state_dict().items() if name not in built.fresh}
    built.module.save_pretrained(folder, state_dict=weights)  # type: ignore[operator]
    tokenizer.save_pretrained(folder)


def verify_prepared(folder: Path) -> str:
    """Checks every file of a prepared folder against its manifest; returns a summary.

    Raises:
        UserError: naming every file that has changed.
    """
    manifest = find_manifest(str(folder))
    if manifest is None:
        raise UserError(Problem("folder", str(folder), f"has no {MANIFEST} of mat-ds prepare", "name a prepared folder"))
    raise_if_any(damage(manifest, folder, contents=True))
    return f"{folder}: {_size_text(manifest)}, as they were prepared on {printable(manifest.date)}"


def _size_text(manifest: Manifest) -> str:
    return f"{len(manifest.files)} files, {sum(file.bytes for file in manifest.files.values()):,} bytes"


def _training(source: RunInput, parsed: argparse.Namespace) -> str:
    """The command line of a run that trains on the prepared folder."""
    command = ["deepspeed", "--module", "mat_ds.commands.train", "--ds_config", "zero2"]
    command += ["--recipe", str(parsed.recipe)] if parsed.recipe else []
    command += [option for option in parsed.overrides if option.split("=")[0] not in REPLACED]
    model = source.run.model.name if _is_folder(source.run.model.name) else parsed.folder / MODEL
    return shlex.join([*command, f"data.path={parsed.folder}", f"model.name={model}"])
