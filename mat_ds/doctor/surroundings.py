"""Describes this machine for a bug report: versions, devices, variables; no secrets, nothing is checked."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator

import psutil

import mat_ds
from mat_ds.config.packaged import INSTALLED
from mat_ds.config.versions import ABSENT, version_of
from mat_ds.errors import HOLDS_SECRET, MASK, masked, printable
from mat_ds.ranks.processors import usable_processors

PACKAGES = (
    "torch", "deepspeed", "transformers", "tokenizers", "peft", "accelerate", "datasets", "evaluate", "huggingface_hub",
    "safetensors", "pyarrow", "numpy", "scipy", "scikit-learn", "pandas", "pydantic", "mlflow", "optuna",
)  # fmt: skip
# Beginnings of the names of variables that change what a run does.
TELLING = (
    "MAT_DS", "DS_", "DEEPSPEED", "HF_", "TRANSFORMERS_", "HUGGINGFACE", "TOKENIZERS_", "TORCH", "PYTORCH", "CUDA", "NVIDIA_",
    "NCCL_", "GLOO_", "OMP_", "MKL_", "MLFLOW", "SLURM_", "MASTER_", "PYTHON", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "CONDA_PREFIX",
    "CUBLAS_", "OMPI_", "PMI_",
)  # fmt: skip
EXACTLY = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "LOCAL_WORLD_SIZE", "TMPDIR", "LANG", "LC_ALL", "no_proxy")


def surroundings() -> Iterator[tuple[str, list[str]]]:
    """Yields the parts of the description: a title and its lines."""
    yield (
        "mat_ds",
        [f"{mat_ds.__version__} {'installed' if INSTALLED else 'in a checkout'}, python {platform.python_version()}"],
    )
    memory = f"{psutil.virtual_memory().total / 2**30:.1f} GiB of memory"
    yield "system", [platform.platform(), memory, f"{usable_processors()} processors for this process"]
    yield "packages", [f"{name} {version}" for name in PACKAGES if (version := version_of(name)) != ABSENT]
    yield "devices", _devices()
    named = sorted(name for name in os.environ if name.startswith(TELLING) or name in EXACTLY)
    yield "variables", [f"{name}={_shown(name)}" for name in named] or ["none that matter are set"]


def _shown(name: str) -> str:
    return MASK if HOLDS_SECRET.search(name) else masked(printable(os.environ[name]))


def _devices() -> list[str]:
    try:
        import torch

        from mat_ds.doctor.cards import GIB, find_cards

        build = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
        cards = [
            f"{card.index}: {card.name}, {card.memory / GIB:.1f} GiB, capability {card.capability[0]}.{card.capability[1]}"
            for card in find_cards()
        ]
        return [build, *(cards or ["no GPU that torch sees"])]
    except Exception as error:  # a bug report about a broken torch is one too
        return [f"torch cannot be asked: {type(error).__name__}: {printable(str(error))[:200]}"]
