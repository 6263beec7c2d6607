"""The share of an outer step's time that multiplying matrices at full speed would take, and where the rest of it goes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.baseline import Sizes
from benchmarks.speed.shapes import make_model
from benchmarks.speed.step import ROUNDS, Product, alone, batches
from benchmarks.speed.timing import Figure, alternate, ratio, wait

SAMPLER, STEP = "the sampler", "an outer step"
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "scaled_dot", "_flash", "_efficient", "mkldnn")
SENDING = ("c10d", "gloo", "nccl", "record_param_comms")
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaMemcpyAsync", "cudaMemsetAsync")
SQUARE = {"cpu": 1024, "cuda": 8192}
# Of a thread on a CPU, which other processes disturb least.
CLOCK = "wall" if torch.cuda.is_available() else "cpu"


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """Multiplications and additions a second in the product of two square matrices: the best of the rounds."""
    size = SQUARE[device.type]
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = alternate({"product": lambda: one @ other}, 2 * ROUNDS)["product"]
    return 2 * size**3 / min(getattr(each, CLOCK) for each in times)


def counted(step: Callable[[], object]) -> int:
    """Multiplications and additions of a step's matrix products, those of attention included."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def where(product: Product, step: Callable[[], object]) -> dict[str, float]:
    """Shares of a step's time, from a profiler's trace: kinds of operations, and the host between them."""
    on_card = torch.cuda.is_available()
    sample = product.engine.sampler.step

    def sampled(*args: Any) -> None:
        with record_function(SAMPLER):
            sample(*args)

    product.engine.sampler.step = sampled  # type: ignore[method-assign]
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_card else [])]
    clock = time.perf_counter if on_card else time.process_time
    with profile(activities=activities) as trace, record_function(STEP):
        start = clock()
        step()
        wait()
        micros = 1e6 * (clock() - start)
    del product.engine.sampler.step
    found: Counter[str] = Counter()
    for event in trace.events() or ():
        if event.name not in (SAMPLER, STEP) and event.device_type == torch.autograd.DeviceType.CPU:
            found[_kind(event)] += event.self_cpu_time_total / micros
        elif on_card and event.device_type == torch.autograd.DeviceType.CUDA:
            found["the card works"] += event.self_device_time_total / micros
    on_host = sum(share for kind, share in found.items() if kind != "the card works")
    return {**{kind: round(share, 3) for kind, share in found.most_common()}, "Python": round(1 - on_host, 3)}


def _kind(event: FunctionEvent | None) -> str:
    name = event.name.removeprefix("aten::") if event else ""
    kind = "other operations"
    if name.startswith(PRODUCTS):
        kind = "matrix products"
    elif name.startswith(SENDING):
        kind = "communication"
    elif name in LAUNCHES:
        kind = "launches"
    while event:
        if event.name == SAMPLER:
            return SAMPLER
        event = event.cpu_parent
    return kind


def measure(model: Path | None, data: Path | None) -> Figure:
    """The share of MAT's outer step (ZeRO-1, fp32, K 5 / 5, without padding), beside that of a step of plain fine-tuning."""
    sizes, found, shares, speeds = Sizes(), batches(model, data), {}, {}
    with alone() as device:
        fastest = peak(device, torch.float32)
        moved = [({name: value.to(device) for name, value in inputs.items()}, labels.to(device)) for inputs, labels in found]
        chains = {"delta_steps": sizes.delta_steps, "theta_steps": sizes.theta_steps}
        products = {"mat": Product(make_model(model), **chains), "vanilla": Product(make_model(model), name="vanilla")}
        turns = {name: cycle(moved) for name in products}
        steps = {name: lambda name=name: products[name].step(*next(turns[name])) for name in products}
        work = {name: median(counted(step) for _ in range(len(moved))) for name, step in steps.items()}
        times = alternate(steps, len(moved))
        for name, product in products.items():
            with closing(product.engine):
                seconds = median(getattr(one, CLOCK) for one in times[name])
                shares[name] = round(work[name] / seconds / fastest, 3)
                speeds[f"{name}_gflops"] = round(work[name] / seconds / 1e9, 1)
                speeds[f"{name}_where"] = where(product, steps[name])
    compared = ratio(times, "mat", "vanilla")
    details = {"vanilla": shares["vanilla"], "peak_gflops": round(fastest / 1e9, 1), **speeds, "load": compared.details["load"]}
    return Figure(None if compared.refusal else shares["mat"], details, compared.refusal)
