"""Facts about the DeepSpeed installation."""

from __future__ import annotations


def accelerator() -> tuple[str, str]:
    """DeepSpeed's device (cuda, cpu) and communication backend (nccl, gloo)."""
    from deepspeed.accelerator import get_accelerator

    found = get_accelerator()
    return found.device_name(), found.communication_backend_name()
