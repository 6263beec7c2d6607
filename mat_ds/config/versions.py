"""Versions of packages, for what a run writes down about itself."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

ABSENT = "not installed"


def version_of(package: str) -> str:
    """The version of a package that is installed, and of this one also where it runs from a checkout that is not."""
    if package == "mat_ds":
        return str(sys.modules[package].__version__)
    try:
        return version(package)
    except PackageNotFoundError:
        return ABSENT
