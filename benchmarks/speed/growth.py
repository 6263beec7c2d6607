"""What an outer step of MAT costs as its options and sizes grow: a straight line through the seconds of each, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure as Picture

from benchmarks.speed.peak import CLOCK
from benchmarks.speed.step import Batch, Product, alone
from benchmarks.speed.timing import Figure, alternate, ratio

# A BERT between the demo's and MiniLM, so that a step takes a fraction of a second.
USUAL = {"hidden": 192, "length": 24, "batch": 16, "delta_steps": 3, "theta_steps": 3}
GROWING: dict[str, Sequence[int]] = {
    "delta_steps": (1, 3, 6, 10),
    "theta_steps": (1, 3, 6, 10),
    "batch": (4, 16, 32, 48),
    "length": (8, 24, 64, 128),
    "hidden": (96, 192, 288, 384),
}
LABELS = {"delta_steps": "K of the perturbation", "theta_steps": "K of the parameters", "batch": "examples",
          "length": "tokens of each", "parameters": "million parameters of the layers"}  # fmt: skip
ROUNDS = 3


def measure(picture: Path | None) -> Figure:
    """The seconds of a step for each value of each size, all others as usual; the figure is the worst R^2 of the lines.

    Args:
        picture: where the lines are drawn (PNG); None for no picture.
    """
    found: dict[str, dict[str, Any]] = {}
    busy = None
    with alone() as device:
        for name, values in GROWING.items():
            sizes = [{**USUAL, name: value} for value in values]
            products = [_product(size) for size in sizes]
            batches = [_batch(size, device) for size in sizes]
            cases = {str(i): partial(products[i].step, *batches[i]) for i in range(len(values))}
            times = alternate(cases, ROUNDS)
            busy = busy or ratio(times, "0", "1").refusal
            seconds = [min(getattr(one, CLOCK) for one in times[case]) for case in cases]
            along: list[float] = list(values)
            key = name
            if name == "hidden":
                key, along = "parameters", [_layers(product) / 1e6 for product in products]
            found[key] = line(along, seconds)
            for product in products:
                product.engine.close()
    if picture:
        draw(found, picture)
    return Figure(None if busy else min(each["r2"] for each in found.values()), {"usual": USUAL, **found}, busy)


def line(x: Sequence[float], y: Sequence[float]) -> dict[str, Any]:
    """A straight line by least squares through points: what each unit of x costs, what is left at 0, and R^2."""
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread
    start = mean_y - slope * mean_x
    left = sum((b - start - slope * a) ** 2 for a, b in zip(x, y, strict=True))
    r2 = 1 - left / sum((b - mean_y) ** 2 for b in y)
    points = {"x": [round(a, 3) for a in x], "seconds": [round(b, 4) for b in y]}
    return {**points, "seconds_per_unit": round(slope, 5), "seconds_at_0": round(start, 4), "r2": round(r2, 3)}


def draw(found: dict[str, dict[str, Any]], file: Path) -> None:
    """A panel for each size, with its points and its line."""
    picture = Picture(figsize=(15, 3), layout="constrained")
    for axes, (name, fitted) in zip(picture.subplots(1, len(found), sharey=True), found.items(), strict=True):
        ends = [0, max(fitted["x"])]
        axes.plot(ends, [fitted["seconds_at_0"] + fitted["seconds_per_unit"] * end for end in ends], color="0.6")
        axes.plot(fitted["x"], fitted["seconds"], "o")
        axes.set(xlabel=LABELS[name], title=f"{1000 * fitted['seconds_per_unit']:.3g} ms each")
    picture.axes[0].set_ylabel("seconds of an outer step")
    picture.axes[0].set_ylim(bottom=0)
    picture.savefig(file, dpi=110)


def _product(size: dict[str, int]) -> Product:
    from transformers import BertConfig, BertForSequenceClassification

    hidden = size["hidden"]
    config = BertConfig(hidden_size=hidden, num_hidden_layers=4, num_attention_heads=hidden // 32, intermediate_size=4 * hidden)
    chains = {name: size[name] for name in ("delta_steps", "theta_steps")}
    return Product(BertForSequenceClassification(config), batch=size["batch"], **chains)


def _batch(size: dict[str, int], device: torch.device) -> Batch:
    drawn = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 30000, (size["batch"], size["length"]), generator=drawn).to(device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, torch.arange(size["batch"], device=device) % 2


def _layers(product: Product) -> int:
    return sum(p.numel() for name, p in product.engine.ds.module.named_parameters() if "embeddings" not in name)
