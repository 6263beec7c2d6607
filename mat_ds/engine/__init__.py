"""The only place that knows DeepSpeed."""

import os

import torch

# DeepSpeed would find out itself, and warn about it in every process.
if not torch.accelerator.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
