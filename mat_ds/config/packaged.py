"""Files that come with the package: recipes, DeepSpeed configurations, sweep spaces, scripts."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

from mat_ds.config.paths import path_argument
from mat_ds.errors import Problem, UserError, nearest

PACKAGE = Path(__file__).parents[1]
# In a checkout these files lie beside the package. In a wheel they lie inside it, where setup.py puts them.
INSTALLED = (PACKAGE / "ds_configs").is_dir()
HOME = PACKAGE if INSTALLED else PACKAGE.parent


@dataclass(frozen=True)
class PackagedFiles:
    """Packaged files of one kind. A file's name is its file name without the suffix.

    Attributes:
        folder, suffix: of the files.
        kind: what a message calls such a file.
    """

    folder: Path
    suffix: str
    kind: str

    def path(self, name: str) -> Path:
        """The path of the packaged file with this name."""
        return self.folder / f"{name}{self.suffix}"

    def names(self) -> list[str]:
        """The names of all packaged files of this kind, sorted."""
        return sorted(path.stem for path in self.folder.glob(f"*{self.suffix}"))

    def argument(self, text: str) -> Path:
        """Resolves a command-line argument: an existing file of the user's wins over the packaged file of the same name."""
        return self.path(text) if text in self.names() and not os.path.isfile(text) else path_argument(text)

    def require(self, path: Path, key: str) -> None:
        """Raises `UserError` if there is nothing at `path`.

        Args:
            key: the option that named the path.
        """
        try:
            os.lstat(path)
        except FileNotFoundError:
            fix = f"{nearest(path.stem, self.names())} Or pass the path of a {self.suffix} file"
            raise UserError(
                Problem(key, str(path), f"cannot be read: it is neither a file nor a {self.kind} of mat_ds", fix)
            ) from None
        except (OSError, ValueError):  # whoever reads the file reports the reason
            pass


RECIPES = PackagedFiles(HOME / "launch" / "recipes", ".yaml", "recipe")
SPACES = PackagedFiles(HOME / "launch" / "sweeps", ".yaml", "space")
# The DeepSpeed configuration of a run that names none.
USUAL = "zero2"
DS_CONFIGS = PackagedFiles(HOME / "ds_configs", ".json", "DeepSpeed configuration")


def add_file_arguments(parser: ArgumentParser, ds_config: str | None = USUAL) -> None:
    """Adds `--ds_config` and `--recipe`, each a file or the name of a packaged one.

    Args:
        ds_config: name of the default configuration; None: the command finds it.
    """
    or_name, default = "or the name of one that comes with mat_ds", ds_config or f"{USUAL}, where options of a run are given"
    parser.add_argument(
        "--ds_config",
        "--deepspeed",
        type=DS_CONFIGS.argument,
        default=ds_config and DS_CONFIGS.path(ds_config),
        metavar="FILE",
        help=f"DeepSpeed JSON of the run, {or_name} (default: {default})",
    )
    parser.add_argument(
        "--recipe", type=RECIPES.argument, metavar="FILE", help=f"YAML of options that differ from the defaults, {or_name}"
    )
