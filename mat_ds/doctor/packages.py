"""Checks the versions of Python and of the packages that mat_ds needs."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module, metadata
from typing import Any

from mat_ds.config.packaged import HOME, INSTALLED
from mat_ds.doctor.rows import Row, brief, failed, passed, warned

# Packages that are also imported: they load compiled code or look for drivers, which can fail with the right version too.
IMPORTED = ("torch", "deepspeed", "transformers")
# If mat_ds is installed, pip still installs dependencies that are missing or have a wrong version.
WHAT = ["mat_ds"] if INSTALLED else ["-c", str(HOME / "constraints.txt"), "-e", str(HOME)]
INSTALL = shlex.join([sys.executable, "-m", "pip", "install", *WHAT])


def requirements() -> list[Any]:
    """The requirements in the metadata of mat_ds (pyproject.toml)."""
    from packaging.requirements import Requirement

    found = [Requirement(line) for line in metadata.requires("mat_ds") or ()]
    return [needed for needed in found if needed.marker is None or needed.marker.evaluate({"extra": ""})]


def installed(name: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def check_packages() -> Iterator[Row]:
    """Checks the version of every package that mat_ds depends on, and imports the most important ones."""
    try:
        wanted = requirements()
    except metadata.PackageNotFoundError:
        yield warned("mat_ds", "is not installed, so the versions it needs are not known", INSTALL)
        return
    yield _python()
    with suppress(Exception):  # selects DeepSpeed's accelerator before it is imported; fails if torch is broken
        import_module("mat_ds.engine")
    good = []
    for needed in wanted:
        version = installed(needed.name)
        if version is None:
            yield failed(needed.name, "is not installed", INSTALL)
        elif not needed.specifier.contains(version, prereleases=True):
            yield failed(needed.name, f"{version} is outside {needed.specifier}", INSTALL)
        elif needed.name not in IMPORTED:
            good.append(needed.name)
        elif failure := import_failure(needed.name):
            yield failed(needed.name, f"{version} cannot be imported ({failure})", INSTALL)
        else:
            yield passed(needed.name, _torch_build() if needed.name == "torch" else version)
    yield passed("others", f"{len(good)} more packages are within their ranges")


def _python() -> Row:
    from packaging.specifiers import SpecifierSet

    version, asked = platform.python_version(), metadata.metadata("mat_ds")["Requires-Python"]
    if SpecifierSet(asked).contains(version, prereleases=True):
        return passed("python", version)
    return failed("python", f"{version} is outside {asked}", "make a new environment with a Python in that range")


def import_failure(name: str) -> str:
    """The reason why a package cannot be imported; empty if it can."""
    try:
        import_module(name)
    except Exception as error:
        return brief(error)
    return ""


def _torch_build() -> str:
    import torch

    nccl = f", NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}" if torch.distributed.is_nccl_available() else ""
    return f"{torch.__version__}, " + (f"for CUDA {torch.version.cuda}{nccl}" if torch.version.cuda else "without CUDA")


def check_deepspeed() -> Iterator[Row]:
    """Reports DeepSpeed's device."""
    import torch

    from mat_ds.engine.inventory import accelerator

    device, backend = accelerator()
    if torch.cuda.is_available() and device == "cpu":
        yield warned("accelerator", "cpu, though torch sees GPUs", "unset DS_ACCELERATOR to train on them")
    else:
        yield passed("accelerator", f"{device}; ranks will talk over {backend}")


def versions() -> dict[str, str]:
    """Versions that must be the same on every rank, by name; for Python, major and minor version."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    with suppress(metadata.PackageNotFoundError):
        found |= {needed.name: installed(needed.name) or "none" for needed in requirements()}
    with suppress(Exception):
        found["torch"] = _torch_build()
    return found
