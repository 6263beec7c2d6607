"""Memory and load of the machines."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import psutil
import torch

from mat_ds.ranks.collectives import gather_rows

MIB = 2**20

psutil.cpu_percent()  # each later call reports the load since the previous call


def resources(step: int, device: torch.device) -> dict[str, Any]:
    """The event of memory of all ranks and load of this rank's node after a step. Every rank must call it.

    Returns:
        Beside `event` and `step`: `rank_memory_mib`: per rank, peak GPU memory, or current memory on a CPU; `cpu_percent` and
        `memory_percent` of the node; `gpu_percent`, `gpu_memory_percent` and `gpu_memory_mib` (in use, by whomever) of this
        rank's GPU.
    """
    on_gpu = device.type == "cuda"
    held = torch.cuda.max_memory_allocated(device) if on_gpu else psutil.Process().memory_info().rss
    ranks = gather_rows(torch.tensor([held / MIB], dtype=torch.float64, device=device))
    load: dict[str, Any] = {
        "event": "system",
        "step": step,
        "rank_memory_mib": [round(value, 1) for value in ranks.tolist()],
        "cpu_percent": psutil.cpu_percent(),
        "memory_percent": psutil.virtual_memory().percent,
    }
    if on_gpu:
        free, total = torch.cuda.mem_get_info(device)
        load["gpu_memory_percent"] = round(100 * (1 - free / total), 1)
        load["gpu_memory_mib"] = round((total - free) / MIB, 1)
        with suppress(ImportError, RuntimeError):  # without NVML
            load["gpu_percent"] = float(torch.cuda.utilization(device))
    return load
