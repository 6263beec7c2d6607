"""The sections of `benchmarks.gpu_check`: what is measured of a model of RoBERTa-large's size on one card."""

from __future__ import annotations

import copy
import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from transformers import RobertaConfig, RobertaForSequenceClassification

from benchmarks.speed import counts
from benchmarks.speed.baseline import Baseline, Sizes
from benchmarks.speed.sampler import SAMPLES, fused, ours
from benchmarks.speed.step import LENGTHS, Product
from benchmarks.speed.timing import alternate, ratio, wait

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
EXAMPLES, TOKENS = 32, 128
# Tokens of MNLI's training pairs with their ends, every fourth percentile.
MNLI_LENGTHS = (13, 17, 19, 21, 23, 25, 27, 29, 30, 32, 34, 36, 37, 39, 41, 43, 45, 47, 49, 52, 55, 58, 63, 71, 86)
HALF = torch.bfloat16
# Bytes of an element that an update of Adam with a mixture must read and write: parameter, gradient, two moments and mixture.
UPDATE_BYTES = 4 * (5 + 4)

Batch = tuple[dict[str, Tensor], Tensor]
# What a section has measured so far, which is kept if its time is over.
Found = dict[str, Any]


class Check:
    """The card, the model's shape, and what has been measured.

    Args:
        device: what is measured.
        shrunk: whether to take the small model.
    """

    def __init__(self, device: torch.device, shrunk: bool):
        self.device, self.shrunk = device, shrunk
        self.found: dict[str, Any] = {}
        self.examples = EXAMPLES // 8 if shrunk else EXAMPLES
        sizes = SMALL if shrunk else LARGE
        config = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, num_labels=2, **sizes)
        self._drawn = RobertaForSequenceClassification(config)

    def model(self) -> nn.Module:
        """A classifier, on the CPU; random weights take seconds to draw, and are drawn once."""
        return copy.deepcopy(self._drawn)

    def batch(self, lengths: tuple[int, ...] = (TOKENS,), turn: int = 0, step: int = 1) -> Batch:
        """Examples of these lengths in turn, padded at the right, to a multiple of `step`; shrunk, an eighth as many."""
        chosen = [lengths[(row * 7 + turn * 11) % len(lengths)] for row in range(self.examples)]
        ids = torch.full((self.examples, -(-max(chosen) // step) * step if step > 1 else max(lengths)), 1)
        for row, length in enumerate(chosen):
            ids[row, :length] = torch.randint(3, 50000, (length,), generator=torch.Generator().manual_seed(row))
        inputs = {"input_ids": ids, "attention_mask": (ids != 1).long()}
        return {name: value.to(self.device) for name, value in inputs.items()}, (torch.arange(self.examples) % 2).to(
            self.device
        )

    def product(self, stage: int = 1, half: str | None = "bf16", model: nn.Module | None = None, **options: Any) -> Product:
        """A run's engine and method."""
        return Product(model or self.model(), stage=stage, batch=self.examples, half=half, **options)

    def ceiling(self, name: str) -> float:
        """What `ceilings` has found; not a number if it has failed."""
        return self.found.get("ceilings", {}).get(name, math.nan)

    def flops(self, batch: Batch, units: int) -> float:
        """Multiplications and additions of `units` forward passes, attention's scores left out."""
        matrices = sum(p.numel() for name, p in self._drawn.named_parameters() if p.dim() > 1 and "embeddings" not in name)
        return 2.0 * matrices * units * int(batch[0]["attention_mask"].sum())


def seconds(step: Callable[[], object], rounds: int = 3) -> float:
    """The median over the rounds, after one that does not count."""
    times = []
    for _ in range(rounds + 1):
        wait()
        start = time.perf_counter()
        step()
        wait()
        times.append(time.perf_counter() - start)
    return round(median(times[1:]), 6)


def ceilings(check: Check, found: Found) -> None:
    """Bytes a second of a copy, and multiplications and additions a second of a matrix product in each precision."""
    elements, size = (1 << 16, 256) if check.shrunk else (1 << 28, 8192)
    one, other = (torch.empty(elements, device=check.device) for _ in range(2))
    found["copy_gb_per_s"] = round(2 * one.nbytes / seconds(lambda: one.copy_(other), 5) / 1e9, 2)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        left, right = (torch.randn(size, size, device=check.device, dtype=dtype) for _ in range(2))
        found[f"matmul_tflops_{str(dtype).removeprefix('torch.')}"] = round(
            2 * size**3 / seconds(lambda left=left, right=right: left @ right, 5) / 1e12, 4
        )


def sampler(check: Check, found: Found) -> None:
    """The sampler's update against torch's fused AdamW, and its share of the measured bandwidth."""
    shapes = [p.shape for p in check.model().parameters()]
    elements = sum(shape.numel() for shape in shapes)
    for name, noise in (("mixture", 0.0), ("noise", 2e-6)):
        cases = {"ours": ours(shapes, check.device, noise), "fused_adamw": fused(shapes, check.device)}
        times = alternate(cases, rounds=5)
        own = median(one.wall for one in times["ours"]) / SAMPLES
        share = UPDATE_BYTES * elements / own / 1e9 / check.ceiling("copy_gb_per_s")
        found[name] = {
            "ratio": ratio(times, "ours", "fused_adamw").details["ratio_wall"],
            "ms": round(1000 * own, 3),
            "share_of_bandwidth": round(share, 3),
        }


def host_waits(check: Check, found: Found) -> None:
    """How often the host waits for the card in an outer step, K 5 / 10."""
    figure = counts.host_waits()
    found.update(count=figure.value, **figure.details)


def vanilla(check: Check, found: Found) -> None:
    """Seconds of a step of plain fine-tuning, 32 x 128."""
    batch = check.batch()
    for stage in (1, 2):
        with closing(check.product(stage, name="vanilla")) as product:
            found[f"zero{stage}_bf16"] = seconds(lambda product=product: product.step(*batch), 5)


def baseline(check: Check, found: Found) -> None:
    """Seconds of the authors' outer step, K 5 / 10: in fp32 as released, and under autocast."""
    theirs, batch = Baseline(check.model().to(check.device), Sizes(theta_steps=10)), check.batch()
    for name, context in (("autocast_bf16", lambda: torch.autocast(check.device.type, HALF)), ("fp32", nullcontext)):
        with context():
            found[name] = seconds(lambda: theirs.step(*batch), 2)


def product(check: Check, found: Found) -> None:
    """Seconds of our outer step, K 5 / 10, by ZeRO stage and precision, and the share of the matrix product's peak."""
    batch = check.batch()
    layouts = [(1, "bf16"), (2, "bf16"), (1, None)] + [(1, "fp16")] * (check.device.type == "cuda")
    for stage, half in layouts:
        with closing(check.product(stage, half, delta_steps=5, theta_steps=10)) as own:
            took = seconds(lambda own=own: own.step(*batch), 2)
            dtype = {"bf16": "bfloat16", "fp16": "float16", None: "float32"}[half]
            peak = 1e12 * check.ceiling(f"matmul_tflops_{dtype}")
            share = check.flops(batch, own.player.cost) / took / peak
            found[f"zero{stage}_{half or 'fp32'}"] = {"seconds": took, "share_of_peak": round(share, 3)}
    theirs, own = check.found.get("baseline", {}), found["zero1_bf16"]["seconds"]
    if "fp32" in theirs:
        found["against_autocast"], found["against_fp32"] = (round(theirs[k] / own, 2) for k in ("autocast_bf16", "fp32"))


def compiled(check: Check, found: Found) -> None:
    """Milliseconds of a pass and its gradient of the input: eager, compiled layer by layer, and as a CUDA graph."""
    model = check.model().to(check.device, HALF).eval().requires_grad_(False)
    words = torch.randn(check.examples, TOKENS, model.config.hidden_size, device=check.device, dtype=HALF, requires_grad=True)

    def probe() -> Tensor:
        return torch.autograd.grad(model(inputs_embeds=words).logits.float().square().sum(), words)[0]

    found["eager_ms"] = round(1000 * seconds(probe, 10), 2)
    if check.device.type == "cuda":
        for _ in range(3):
            probe()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            probe()
        found["graph_ms"] = round(1000 * seconds(graph.replay, 10), 2)
    start = time.perf_counter()
    for layer in model.base_model.encoder.layer:
        layer.compile()
    probe()
    wait()
    found["cold_compile_s"] = round(time.perf_counter() - start, 1)
    found["layers_ms"] = round(1000 * seconds(probe, 10), 2)


def unpadded(check: Check, found: Found) -> None:
    """What leaving padding out changes in logits (fp32), and seconds of outer steps at the lengths of CoLA and MNLI."""
    from mat_ds.models.unpadded import remove_padding

    inputs, _ = check.batch(LENGTHS)
    padded, packed = (check.model().to(check.device).eval() for _ in range(2))
    remove_padding(packed)
    with torch.no_grad():
        found["logits_differ_by"] = float((padded(**inputs).logits - packed(**inputs).logits).abs().max())
    del padded, packed
    for name, lengths in (("cola", LENGTHS), ("mnli", MNLI_LENGTHS)):
        batch = check.batch(lengths)
        theirs = Baseline(check.model().to(check.device), Sizes(theta_steps=10))
        with torch.autocast(check.device.type, HALF):
            autocast = seconds(lambda theirs=theirs, batch=batch: theirs.step(*batch), 2)
        del theirs
        found[name] = {"autocast": autocast}
        for how, without in (("padded", False), ("unpadded", True)):
            with closing(check.product(delta_steps=5, theta_steps=10, unpadded=without)) as own:
                found[name][how] = seconds(lambda own=own, batch=batch: own.step(*batch), 2)


def trace(check: Check, found: Found) -> None:
    """Peak memory of an outer step (ZeRO-1, bf16), and the kernels and calls that take most of it."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if check.device.type == "cuda" else []
    batch = check.batch()
    with closing(check.product(delta_steps=2, theta_steps=2)) as own:
        own.step(*batch)
        with torch.profiler.profile(activities=activities) as profile:
            own.step(*batch)
            wait()
        by = "self_cuda_time_total" if check.device.type == "cuda" else "self_cpu_time_total"
        table = profile.key_averages().table(sort_by=by, row_limit=14, max_name_column_width=50)
        peak = torch.cuda.max_memory_allocated() if check.device.type == "cuda" else 0
    found.update(peak_mib=peak >> 20, table=table.splitlines())


@contextmanager
def closing(product: Product) -> Iterator[Product]:
    """Closes its engine, and frees the memory."""
    try:
        yield product
    finally:
        product.engine.close()
        del product.engine, product.player
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
