"""What DeepSpeed found when it was installed and when it was imported."""

from __future__ import annotations


def accelerator() -> tuple[str, str]:
    """The device that DeepSpeed computes on (cuda, cpu), and what its ranks talk over (nccl, gloo)."""
    from deepspeed.accelerator import get_accelerator

    found = get_accelerator()
    return found.device_name(), found.communication_backend_name()


def prebuilt_operators() -> list[str]:
    """Extensions that were compiled with the package, not when they are first used."""
    from deepspeed.git_version_info import installed_ops

    return sorted(name for name, built in installed_ops.items() if built)
