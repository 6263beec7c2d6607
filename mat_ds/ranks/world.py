"""`World`, the position of this process among those of the run."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from mat_ds.ranks.launch import launcher_variables
from mat_ds.ranks.watchdog import launchers


@dataclass(frozen=True)
class World:
    """This process's position among those of the run, known before they communicate.

    Attributes:
        launchers: the processes that started it and wait for it, nearest first.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    launchers: tuple[psutil.Process, ...] = ()

    @classmethod
    def from_environment(cls) -> World:
        """Reads the launcher's variables; a single process without a launcher. Raises `UserError` if they are inconsistent."""
        rank, size, local_rank, local_size = launcher_variables()
        return cls(rank, size, local_rank, local_size, launchers() if size > 1 else ())
