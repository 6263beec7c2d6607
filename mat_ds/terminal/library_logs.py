"""Keeps log messages of libraries off the terminal, in a file of the run directory."""

from __future__ import annotations

import logging
import sys
import warnings
from logging.handlers import MemoryHandler
from pathlib import Path

# Libraries that print their log themselves.
LIBRARIES = ("DeepSpeed", "transformers", "datasets", "huggingface_hub", "peft", "accelerate")
# Records kept in memory until the run directory exists; a start makes a few hundred.
KEPT = 100_000


class LibraryLogs:
    """A context in which libraries and Python's warnings log to a file; errors are shown too.

    Args:
        kept: whether this process writes the file; other ranks log the same.
    """

    def __init__(self, kept: bool):
        self._filters = warnings.catch_warnings()
        self._memory = MemoryHandler(KEPT, flushLevel=logging.CRITICAL + 1)
        self._shown = logging.StreamHandler(sys.stderr)
        self._shown.setLevel(logging.ERROR)
        self._handlers: list[logging.Handler] = [self._memory, self._shown] if kept else [self._shown]

    def __enter__(self) -> LibraryLogs:
        for name in LIBRARIES:
            library = logging.getLogger(name)
            library.handlers.clear()
            library.setLevel(logging.INFO)
            library.propagate = True
        for handler in self._handlers:
            logging.getLogger().addHandler(handler)
        self._filters.__enter__()
        warnings.simplefilter("default")  # commands hide them
        logging.captureWarnings(True)
        return self

    def write_to(self, path: Path) -> None:
        """Writes the records so far, and all later ones, to a file."""
        file = logging.FileHandler(path, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._handlers.append(file)
        logging.getLogger().addHandler(file)
        logging.getLogger().removeHandler(self._memory)
        self._memory.setTarget(file)
        self._memory.flush()

    def __exit__(self, *_: object) -> None:
        logging.captureWarnings(False)
        self._filters.__exit__(None, None, None)
        for handler in self._handlers:
            logging.getLogger().removeHandler(handler)
            handler.close()
