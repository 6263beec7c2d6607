"""`World`, the position of this process among those of the run."""

from __future__ import annotations

from dataclasses import dataclass

from mat_ds.ranks.launch import told
from mat_ds.ranks.watchdog import Process, launchers


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
    launchers: tuple[Process, ...] = ()

    @classmethod
    def from_environment(cls) -> World:
        """Reads the launcher's variables; a single process without a launcher. Raises `UserError` if they are inconsistent."""
        said = told()
        return cls(said.rank, said.size, said.local_rank, said.local_size, launchers() if said.size > 1 else ())
