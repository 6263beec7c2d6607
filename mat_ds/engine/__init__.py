"""The only place that knows DeepSpeed."""

import logging
import os
import sys

import torch

# DeepSpeed would find out itself, and warn about it in every process.
if not torch.accelerator.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

# Its autotuner, which nothing here uses, imports MLflow where that can be had: a second in every process.
if "mlflow" not in sys.modules:
    sys.modules["mlflow"] = None  # type: ignore[assignment]
    import deepspeed  # noqa: F401

    del sys.modules["mlflow"]

# What it says of every start is for a log file (`mat_ds/terminal/library_logs.py`).
logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
