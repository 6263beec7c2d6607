"""Checks what the launcher has set for this process: ranks, address, secrets, limits and threads."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mat_ds.doctor.rows import Row, brief, failed, from_problem, passed, warned
from mat_ds.errors import HOLDS_SECRET
from mat_ds.tracking.trust import CREDENTIALS

if TYPE_CHECKING:
    from mat_ds.ranks.world import World

OPEN_FILES = 1024
OPEN_FILES_PER_RANK = 16
SLURM = ("SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE", "SLURM_GPUS_ON_NODE")
# DeepSpeed's ssh launcher exports the variables that begin with these to all nodes.
EXPORTED = ("MLFLOW", "PYTHON", "MV2", "UCX", "NCCL")
INFINIBAND = Path("/sys/class/infiniband")


def check_own_card(world: World) -> Iterator[Row]:
    """Checks that there is a GPU for this rank, if this machine has any."""
    from mat_ds.ranks.launch import card_problems

    yield from map(from_problem, card_problems(world.local_rank))


def check_launch(world: World) -> Iterator[Row]:
    """Checks which launcher started this process, and whether it has set all variables that ranks need."""
    from mat_ds.ranks.launch import launcher_problems

    if problems := list(launcher_problems()):
        yield from map(from_problem, problems)
    elif world.size == 1:
        yield passed(
            "launcher", "none: one process", "`deepspeed --module mat_ds.commands.doctor` tests the links between ranks too"
        )
    else:
        yield passed("launcher", f"{_launcher()}: {world.size} ranks, {world.local_size} on a node")
        yield from _master()
    if given := [f"{name.removeprefix('SLURM_')}={os.environ[name]}" for name in SLURM if name in os.environ]:
        yield passed("slurm", ", ".join(given), "srun --kill-on-bad-exit=1 ends a job whose first rank has died")


def check_secrets() -> Iterator[Row]:
    """Warns of secrets that DeepSpeed's ssh launcher would write into the command line, and log, of every node."""
    exported = [name for name in os.environ if name.startswith(EXPORTED) and _holds_secret(name)]
    listed: dict[str, Path] = {}
    for folder in (Path.home(), Path.cwd()):
        if (
            file := folder / os.environ.get("DS_ENV_FILE", ".deepspeed_env")
        ).is_file():  # of more variables that DeepSpeed's launcher exports
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            listed |= {name: file for line in lines if _holds_secret(name := line.partition("=")[0].strip())}
    if not exported and not listed:
        return
    found = ", ".join([*sorted(exported), *(f"{name} in {file}" for name, file in sorted(listed.items()))])
    yield warned(
        "secrets",
        f"{found}: `deepspeed --hostfile` writes the values into the command line of every node, where all "
        "its users see them, and into its log",
        "before such a launch unset them, take them out of the file, and keep them on each node in "
        "~/.mlflow/credentials (mode 600); or train with tracking.uri=none and `mat-ds sync` afterwards",
    )


def _holds_secret(name: str) -> bool:
    return bool(HOLDS_SECRET.search(name)) or name in CREDENTIALS


def _launcher() -> str:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun"
    if "CROSS_SIZE" in os.environ:
        return "deepspeed"
    return "srun" if "SLURM_STEP_ID" in os.environ else "variables set by hand"


def _master() -> Iterator[Row]:
    address, port = (os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    if not address or not port.isdecimal():
        yield failed(
            "MASTER_ADDR, MASTER_PORT",
            f"{address!r}, {port!r}",
            "export the name of the first node and a free port, the same for all ranks, as every launcher does",
        )
        return
    try:
        socket.getaddrinfo(address, int(port))
    except OSError as error:
        yield failed(
            "MASTER_ADDR",
            f"{address} is not an address that this node can resolve ({brief(error)})",
            "name it as this node's /etc/hosts or name server does",
        )


def check_limits(world: World) -> Iterator[Row]:
    """Checks the limits on open files and locked memory, and the number of threads."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(OPEN_FILES, OPEN_FILES_PER_RANK * world.size)
    if files != resource.RLIM_INFINITY and files < wanted:
        yield warned("open files", f"at most {files}; {world.size} ranks want {wanted}", "ulimit -n 65536 before the launch")
    else:
        yield passed("open files", "unlimited" if files == resource.RLIM_INFINITY else f"at most {files}")
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if locked != resource.RLIM_INFINITY and INFINIBAND.is_dir() and any(INFINIBAND.iterdir()):
        yield warned(
            "locked memory",
            f"at most {locked // 1024} KiB, and InfiniBand needs to lock its buffers",
            "ulimit -l unlimited (limits.conf; under SLURM: PropagateResourceLimitsExcept=MEMLOCK)",
        )
    yield _threads(world)


def _threads(world: World) -> Row:
    from mat_ds.ranks.processors import usable_processors

    cores, asked = usable_processors(), os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) * world.local_size > cores:
        return warned(
            "threads",
            f"OMP_NUM_THREADS={asked} for each of {world.local_size} ranks on {cores} cores",
            f"export OMP_NUM_THREADS={max(1, cores // world.local_size)}",
        )
    chosen = f"OMP_NUM_THREADS={asked}" if asked else "OMP_NUM_THREADS is not set (the ranks share them out)"
    return passed("threads", f"{cores} cores; {chosen}")
