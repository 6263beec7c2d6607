"""Versions of installed packages, for a run's environment.json."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

ABSENT = "not installed"


def version_of(package: str) -> str:
    """The version of an installed package. For mat_ds it also works in a checkout that is not installed."""
    if package == "mat_ds":
        return str(sys.modules[package].__version__)
    try:
        return version(package)
    except PackageNotFoundError:
        return ABSENT
