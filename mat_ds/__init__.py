"""MAT: mixed-strategy adversarial fine-tuning of language models on DeepSpeed.

`import mat_ds` is fast: each of the names below is imported, and torch with it, when it is first used.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mat_ds.api.models import evaluate, load, predict
    from mat_ds.api.training import Run, train
    from mat_ds.engine.engine import Engine
    from mat_ds.engine.group import process_group
    from mat_ds.errors import UserError
    from mat_ds.evaluation.predictor import Predictor
    from mat_ds.methods import METHODS
    from mat_ds.methods.base import Method
    from mat_ds.methods.batch import MicroBatch
    from mat_ds.methods.settings import MethodSettings
    from mat_ds.ranks.world import World
    from mat_ds.runs.plugins import register_method, register_task
    from mat_ds.sampling.chain import Chain
    from mat_ds.sampling.options import OptimizerConfig
    from mat_ds.sampling.sampler import Sampler

__version__ = "0.1.0"

# Libraries read these when they are imported, which happens later. The first two switch off reports of usage to their makers.
# The third keeps torch from printing a page of C++ for every request that a killed rank did not answer; mat_ds names the rank.
for _variable, _value in (
    ("DO_NOT_TRACK", "1"),
    ("MLFLOW_DISABLE_TELEMETRY", "true"),
    ("TORCH_CPP_LOG_LEVEL", "ERROR"),
):
    os.environ.setdefault(_variable, _value)
# Threads that wait for work would spin, and take the processors from other ranks and programs. Read when torch is loaded.
if "torch" not in sys.modules:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_PLACES = {
    "evaluate": "api.models", "load": "api.models", "predict": "api.models", "Predictor": "evaluation.predictor",
    "Run": "api.training", "train": "api.training", "UserError": "errors",
    "METHODS": "methods", "Method": "methods.base", "MethodSettings": "methods.settings",
    "register_method": "runs.plugins", "register_task": "runs.plugins",
    "Chain": "sampling.chain", "Engine": "engine.engine", "MicroBatch": "methods.base", "OptimizerConfig": "sampling.options",
    "Sampler": "sampling.sampler", "World": "ranks.world", "process_group": "engine.group",
}  # fmt: skip

__all__ = [
    "METHODS", "Chain", "Engine", "Method", "MethodSettings", "MicroBatch", "OptimizerConfig", "Predictor", "Run", "Sampler",
    "UserError", "World", "evaluate", "load", "predict", "process_group", "register_method", "register_task", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'mat_ds' has no attribute {name!r}")
    return getattr(import_module(f"mat_ds.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
