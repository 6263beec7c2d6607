"""The kernels of `noise_kernel` and `step_kernel` on a CPU: `cpu_kernels.c`, compiled where it runs, in a tenth of a second.

Every operation in it is rounded as IEEE 754 says, so that ranks on different processors, and with different compilers, come
to the same bits.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from mat_ds.sampling import philox
from mat_ds.sampling.step import Step

SOURCE = Path(__file__).with_suffix(".c")
COMPILERS = "cc", "gcc", "clang"
# A fused multiply-add would round otherwise where there is one; without an errno, roots are one instruction.
FLAGS = "-std=c11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"
CONSTANTS = {
    "ROUNDS": philox.ROUNDS, "MULTIPLIER_0": philox.MULTIPLIERS[0], "MULTIPLIER_1": philox.MULTIPLIERS[1],
    "WEYL_0": philox.WEYL[0], "WEYL_1": philox.WEYL[1],
}  # fmt: skip
# A run does not wait longer for a compiler; on a machine at rest it takes a tenth of one.
COMPILE_SECONDS = 60
# A thread is not worth its start for fewer elements; and a thread's first counter has all its numbers.
LEAST = 1 << 16


class _StructStep(ctypes.Structure):
    """`struct step` of the source."""

    _fields_ = [
        *((name, ctypes.c_float) for name in ("rate", "decay", "rest_1", "rest_2", "root", "eps", "scale", "anchor", "weight")),
        *((name, ctypes.c_int32) for name in ("drift", "mixed", "start", "last")),
        ("key", ctypes.c_uint64),
    ]


def compiled(folder: Path) -> Path:
    """Compiles the source into a folder, for this processor if the compiler can.

    Raises:
        OSError: if there is no compiler, or it cannot.
        subprocess.TimeoutExpired: if it does not end.
    """
    compiler = shlex.split(os.environ.get("CC", "")) or [found for found in map(shutil.which, COMPILERS) if found][:1]
    if not compiler:
        raise FileNotFoundError(f"no C compiler is installed ({', '.join(COMPILERS)})")
    path, defined = folder / "kernels.so", [f"-D{name}={number}u" for name, number in CONSTANTS.items()]
    for own in (["-march=native"], []):
        command = [*compiler, *FLAGS, *own, *defined, str(SOURCE), "-o", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=COMPILE_SECONDS)
        if done.returncode == 0:
            return path
    raise OSError(f"{shlex.join(compiler)} does not compile {SOURCE.name}: {done.stderr.strip()[-300:]}")


@cache
def loaded() -> ctypes.CDLL:
    """The compiled source; once loaded, its file is needed no more."""
    with TemporaryDirectory(prefix="mat_ds-") as folder:
        found = ctypes.CDLL(str(compiled(Path(folder))))
    found.advance.argtypes = [ctypes.c_size_t, ctypes.c_uint64, *[ctypes.c_void_p] * 6, _StructStep]
    found.advance.restype = None
    return found


def add_numbers(theta: Tensor, scale: float, key: int, place: int, void: Tensor) -> None:
    """theta += scale * (1 - void) * normal numbers; see `noise_kernel.Kernel`."""
    _pass_over([theta] * 5, place, void, _StructStep(scale=scale, key=key))


def advance(own: dict[str, Tensor], void: Tensor, step: Step) -> None:
    """See `step_kernel.Kernel`."""
    theta = own["theta"]
    names = "theta", "gradient", "exp_avg", "exp_avg_sq", "mixture"
    _pass_over(
        [own.get(name, theta) for name in names], step.place, void,
        _StructStep(
            rate=step.rate, decay=step.decay, rest_1=1 - step.beta_1, rest_2=1 - step.beta_2, root=step.root, eps=step.eps,
            scale=step.scale, anchor=step.anchor, weight=step.weight, drift=step.drift, mixed=step.mixed, start=step.start,
            last=step.last, key=step.key,
        ),
    )  # fmt: skip


def _pass_over(tensors: list[Tensor], place: int, void: Tensor, step: _StructStep) -> None:
    """Advances all elements, each thread of torch's as many; the numbers are those of places, however they are cut."""
    for tensor in (*tensors, void):
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu" or not tensor.is_contiguous():
            raise ValueError(f"a kernel for flat fp32 tensors in host memory was given {tensor.dtype} on {tensor.device}")
    call, stop = loaded().advance, void.data_ptr()

    def part(first: int, count: int) -> None:
        call(count, place + first, *[tensor.data_ptr() + 4 * first for tensor in tensors], stop, step)

    parts = list(_by_thread(tensors[0].numel(), torch.get_num_threads()))
    if len(parts) == 1:
        part(*parts[0])
    else:
        list(_workers(len(parts)).map(part, *zip(*parts, strict=True)))


def _by_thread(numel: int, threads: int) -> Iterator[tuple[int, int]]:
    """The first element of each thread, and how many it has."""
    size = max(LEAST, -(-numel // threads))
    for first in range(0, max(numel, 1), size):
        yield first, min(size, numel - first)


@cache
def _workers(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "mat_ds sampler")
