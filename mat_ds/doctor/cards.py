"""Checks the GPUs of this node: kernels, precisions, free memory and peer access."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from os import cpu_count, environ
from pathlib import Path
from typing import TYPE_CHECKING

from mat_ds.config.packaged import DS_CONFIGS
from mat_ds.doctor.rows import Row, brief, failed, passed, warned

if TYPE_CHECKING:
    from mat_ds.ranks.world import World

GIB = 2**30
OLDER_BUILD = "install torch anew, from the index of the CUDA 12.6 build that PyTorch's install page shows"
NEWER_BUILD = "install torch anew, from the index of a newer CUDA build that PyTorch's install page shows"
FREE_ENOUGH = 0.8


@dataclass(frozen=True)
class Card:
    """An NVIDIA GPU.

    Attributes:
        index: its number in torch.
        name: its model.
        memory: in bytes.
        capability: its compute capability, such as (8, 6).
    """

    index: int
    name: str
    memory: int
    capability: tuple[int, int]


def find_cards() -> list[Card]:
    """All GPUs that this process sees."""
    from torch import cuda

    if not cuda.is_available():
        return []
    return [
        Card(i, cuda.get_device_name(i), cuda.get_device_properties(i).total_memory, cuda.get_device_capability(i))
        for i in range(cuda.device_count())
    ]


def own_cards(world: World) -> list[Card]:
    """The GPU of this rank; without a launcher, all GPUs."""
    cards = find_cards()
    return cards if world.size == 1 else [card for card in cards if card.index == world.local_rank]


def has_kernels(capability: tuple[int, int], built_for: list[str]) -> bool:
    """Whether this torch runs on a GPU.

    Args:
        capability: the GPU's compute capability.
        built_for: what torch was built for: `sm_86` is machine code, `compute_90` is code that the driver compiles.
    """
    return any(
        built <= capability and (entry.startswith("compute") or built[0] == capability[0])
        for entry, built in zip(built_for, map(_capability, built_for), strict=True)
    )


def _capability(entry: str) -> tuple[int, int]:
    """The compute capability in an entry of torch's list: (9, 0) for `sm_90a`."""
    return divmod(int(entry.split("_")[1].rstrip("af")), 10)


def check_cards(world: World) -> Iterator[Row]:
    """Checks every GPU of this node, and whether the memory of this rank's own is free."""
    cards = find_cards()
    if not cards:
        yield _none()
        return
    from torch import cuda

    built_for = cuda.get_arch_list()
    for card in cards:
        found = f"{card.name}, {card.memory / GIB:.0f} GiB, compute capability {'.'.join(map(str, card.capability))}"
        if built_for and not has_kernels(card.capability, built_for):
            older = card.capability < min(map(_capability, built_for))
            yield failed(
                f"GPU {card.index}",
                f"{found}: this torch has no kernels for it, only {' '.join(built_for)}",
                OLDER_BUILD if older else NEWER_BUILD,
            )
        else:
            yield passed(f"GPU {card.index}", found)
    if world.local_size > len(cards):
        yield failed(
            "GPUs for ranks",
            f"{world.local_size} ranks on this node see {len(cards)} of its GPUs, and take the one that LOCAL_RANK counts to",
            f"start {len(cards)} ranks here, or let every rank see all GPUs of the node "
            "(srun --gpus-per-node without --gpus-per-task or --gpu-bind)",
        )
    yield from _occupied(own_cards(world))


def _none() -> Row:
    import torch

    cpu_wanted = environ.get("DS_ACCELERATOR") == "cpu" or environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if cpu_wanted or not list(Path("/dev").glob("nvidia[0-9]*")):
        return passed("GPUs", f"none: training runs on {cpu_count()} CPU cores")
    if torch.version.cuda is None:
        return failed(
            "GPUs",
            f"there are NVIDIA GPUs, and torch {torch.__version__} is a build without CUDA",
            f"{OLDER_BUILD}; on Ampere and newer the default build; or export DS_ACCELERATOR=cpu",
        )
    try:
        torch.cuda.init()
        why = "it sees none"
    except Exception as error:
        why = brief(error)
    return failed(
        "GPUs",
        f"there are NVIDIA GPUs, and torch {torch.__version__} cannot use them ({why})",
        "see that nvidia-smi works, and take a build for a CUDA that its driver serves "
        f"({OLDER_BUILD}); or export DS_ACCELERATOR=cpu",
    )


def _occupied(cards: list[Card]) -> Iterator[Row]:
    from torch import cuda

    for card in cards:
        free, total = cuda.mem_get_info(card.index)
        if free < FREE_ENOUGH * total:
            taken = f"{(total - free) / GIB:.0f} of {total / GIB:.0f} GiB are taken by others"
            yield warned(
                f"memory of GPU {card.index}", taken, "nvidia-smi shows by whom; CUDA_VISIBLE_DEVICES chooses other cards"
            )


def precisions(cards: list[Card]) -> list[str]:
    """The precisions that all these GPUs, or without GPUs the CPU, compute in without emulation.

    torch.cuda.is_bf16_supported() cannot be used: it returns True on a V100 too, where bf16 is emulated.
    """
    if cards:
        return ["fp32", "fp16", *(["bf16"] if min(card.capability for card in cards) >= (8, 0) else [])]
    from mat_ds.engine.ds_config import cpu_has_fp16

    return ["fp32", "bf16", *(["fp16"] if cpu_has_fp16() else [])]


def check_precisions(world: World) -> Iterator[Row]:
    """Lists the precisions of this node, and the packaged DeepSpeed configurations that it can run."""
    from mat_ds.engine.ds_config import precision_problems
    from mat_ds.runs.ds_config import read_ds_config

    cards, own = find_cards(), own_cards(world)
    broken = [
        f"{name} on GPU {card.index}: {why}"
        for card in own
        for name in precisions([card])
        if (why := multiply(card.index, name))
    ]
    if broken:
        yield failed("precisions", "; ".join(broken), "mend the GPU, its driver or the torch build (above) first")
        return
    able = precisions(cards)
    note = "" if "bf16" in able else " (bf16 needs compute capability 8.0; attention by sdpa, no torch.compile)"
    yield passed("precisions", ", ".join(able) + note)
    served = [name for name in DS_CONFIGS.names() if not list(precision_problems(read_ds_config(DS_CONFIGS.path(name))))]
    if served:
        yield passed("--ds_config", ", ".join(served))


def check_noise(world: World) -> Iterator[Row]:
    """Tries what draws the parameters' noise on this rank's device."""
    import torch

    from mat_ds.sampling.noise_kernel import try_noise
    from mat_ds.sampling.tried import written_in

    devices = [torch.device("cuda", card.index) for card in own_cards(world)] or [torch.device("cpu")]
    for device in devices:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            kernel, reason = try_noise(device)
        name = "noise" if device.index is None else f"noise on GPU {device.index}"
        if kernel:
            yield passed(name, f"{written_in(device)} draws what it should")
        else:
            found = f"{written_in(device)} does not work ({reason}): an update with noise of θ takes several times as long"
            yield warned(name, found, "install a C compiler (gcc), or set CC to one that works; other ranks do without too")


def multiply(index: int, precision: str) -> str:
    """The reason why a product of two small matrices fails or is wrong on a GPU; empty if it is right."""
    import torch

    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    try:
        ones = torch.ones(64, 64, dtype=dtype, device=f"cuda:{index}")
        return "" if bool((ones @ ones == 64).all()) else "a product of matrices is wrong"
    except Exception as error:
        return brief(error)
