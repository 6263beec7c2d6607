"""Attention kernels for texts of different lengths without padding, on a GPU."""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

Kernel = Literal["flash", "efficient"]
# How far a kernel may be from plain attention, relative to the largest number.
TOLERANCE = {torch.float32: 5e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}  # TF32 included
# Lengths of the texts on which a kernel is tried.
TRIED = (3, 1, 5)


def variable_length(
    kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, ends: tuple[Tensor, Tensor], longest: tuple[int, int],
    dropout: float,
) -> Tensor:  # fmt: skip
    """Attention among the tokens of each text, (1, T, heads, size).

    Args:
        kernel: flash needs 16 bits and an Ampere card.
        query, key, value: (1, T, heads, size) of all texts, one after another.
        ends: of queries and of keys: 0 and where each text ends, (B + 1,) int32.
        longest: text, of queries and of keys.
        dropout: probability of dropping a weight.
    """
    if kernel == "flash":
        found = torch.ops.aten._flash_attention_forward(query[0], key[0], value[0], *ends, *longest, dropout, False, False)
        return found[0][None]
    # No bias, no causal mask, and what the backward pass needs kept.
    return torch.ops.aten._efficient_attention_forward(query, key, value, None, *ends, *longest, dropout, 0, True)[0]


@cache
def kernel_for(device: torch.device, dtype: torch.dtype, size: int) -> Kernel | None:
    """The fastest kernel that works, tried once on a small example; None if none does, as on a CPU.

    Args:
        device, dtype: of queries, keys and values.
        size: of a head.
    """
    if device.type != "cuda" or dtype not in TOLERANCE:
        return None
    flash = dtype.itemsize == 2 and torch.cuda.get_device_capability(device) >= (8, 0)
    kernels: tuple[Kernel, ...] = ("flash", "efficient") if flash else ("efficient",)
    return next((kernel for kernel in kernels if _works(kernel, device, dtype, size)), None)


def _works(kernel: Kernel, device: torch.device, dtype: torch.dtype, size: int) -> bool:
    """Whether outputs and gradients are those of plain attention, for all queries and for each text's first alone."""
    tokens, heads = sum(TRIED), 2
    # Not random: the generator belongs to dropout.
    numbers = torch.arange(3 * tokens * heads * size, device=device).float().sin().to(dtype)
    ends = torch.tensor([0, *torch.tensor(TRIED).cumsum(0).tolist()], dtype=torch.int32, device=device)
    alone = torch.arange(len(TRIED) + 1, dtype=torch.int32, device=device)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            q, k, v = (x.clone().requires_grad_() for x in numbers.view(3, 1, tokens, heads, size))
            parts = [[x.transpose(1, 2) for x in text] for text in zip(*(x.split(TRIED, 1) for x in (q, k, v)), strict=True)]
            plain = torch.cat([scaled_dot_product_attention(*text).transpose(1, 2) for text in parts], 1)
            own = variable_length(kernel, q, k, v, (ends, ends), (max(TRIED), max(TRIED)), 0.0)
            firsts = ends[:-1].long()
            own_first = variable_length(kernel, q[:, firsts], k, v, (alone, ends), (1, max(TRIED)), 0.0)
            for ours, theirs in ((own, plain), (own_first, plain[:, firsts])):
                weights = torch.arange(ours.numel(), device=device).float().cos().to(dtype).view_as(ours)
                found, wanted = ((x, *torch.autograd.grad(x, (q, k, v), weights, retain_graph=True)) for x in (ours, theirs))
                for one, other in zip(found, wanted, strict=True):
                    far = (one.float() - other.float()).abs().max() / other.float().abs().max()
                    if not bool(far <= TOLERANCE[dtype]):
                        return False
    except (RuntimeError, NotImplementedError, TypeError, AttributeError):  # this card or this torch does not have it
        return False
    return True
