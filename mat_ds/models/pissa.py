"""PiSSA: adapters that begin as the largest singular values and vectors of the base, which keeps the rest.

https://arxiv.org/abs/2404.02948. With W = W_rest + s B_0 A_0, a trained layer is W_rest + s B A = W + s (B A - B_0 A_0): a LoRA
adapter of twice the rank on the base as it is published, which is what is saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

BEGUN = "pissa_begun"


@contextmanager
def one_thread() -> Iterator[None]:
    """A context in which singular values do not depend on the number of threads, by which their last bits differ."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def remember(model: Any) -> None:
    """Keeps the initial values of a model's adapters with the model, outside its parameters."""
    setattr(model, BEGUN, {n: p.detach().clone() for n, p in model.named_parameters() if _sign(n)})


def begun(model: Any) -> dict[str, Tensor]:
    """A_0 and B_0 by name; empty if the adapters are not PiSSA's."""
    found: dict[str, Tensor] = getattr(model, BEGUN, {})
    return found


def begun_of(saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A_0 and B_0 from the adapters that `as_lora` returned."""
    first = {}
    for name, value in saved.items():
        if found := _sign(name):
            sign, dim = found
            first[name] = sign * value.detach().chunk(2, dim)[1]
    return first


def as_lora(weights: Mapping[str, Tensor], first: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Trained adapters (and other weights, unchanged) as LoRA on the unchanged base.

    Args:
        weights: by name; A (r, in) and B (out, r).
        first: A_0 and B_0 by the same names; if empty, nothing is changed.

    Returns:
        A as (2r, in), B as (out, 2r).
    """
    whole = dict(weights)
    for name, value in first.items():
        sign, dim = _sign(name) or (1, 0)
        whole[name] = torch.cat([weights[name], sign * value.to(weights[name])], dim)
    return whole


def _sign(name: str) -> tuple[int, int] | None:
    """The sign and the dimension with which a parameter's initial value is appended; None if it is not an adapter's."""
    return (1, 0) if ".lora_A." in name else (-1, 1) if ".lora_B." in name else None
