"""The DeepSpeed engine; no other room imports DeepSpeed."""

import logging
import os
import sys

import torch

# Set explicitly, since DeepSpeed's own detection prints a warning in every process.
if not torch.accelerator.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

# DeepSpeed's autotuner, which is not used here, would import MLflow: a second in every process.
if "mlflow" not in sys.modules:
    sys.modules["mlflow"] = None  # type: ignore[assignment]
    import deepspeed  # noqa: F401

    del sys.modules["mlflow"]

# DeepSpeed's messages at each start go to a log file (`mat_ds/terminal/library_logs.py`).
logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
