"""Bytes of tensors that are alive at a time, and the kernels that decide how many a GPU would hold.

On the meta device tensors have shapes and no memory, so the passes of a model of any size can be made in a second and every
tensor they keep be counted. What differs there from a GPU is which kernels compute dropout and attention; `gpu_kernels` puts
the GPU's in place.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Elements that the rows of an attention bias are padded to (aten's pad_bias).
BIAS_ALIGNMENT = 16


class Live(TorchDispatchMode):
    """Within it, `now` is the number of bytes that came to life within it and still are, `peak` the largest it was.

    Views count once. A tensor without values cannot say whether there is no pad; it is taken to say that there is one: then
    models make a mask, which costs more.

    Args:
        known: tensors that were there before and do not count.
    """

    def __init__(self, known: Iterable[Tensor]):
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, Any] = {tensor.untyped_storage()._cdata: None for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta and args[0].dtype == torch.bool:
            return False
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return

        def die(_: Any) -> None:
            del self._alive[key]
            self.now -= size

        self._alive[key] = weakref.ref(storage, die)
        self.now += size
        self.peak = max(self.peak, self.now)


@contextmanager
def gpu_kernels() -> Iterator[None]:
    """Within it, dropout and attention keep for the backward what they keep on a GPU.

    Dropout: one byte an element, its mask, where the CPU's keeps a whole factor. Attention: query, key, value, output and
    one number per row and head (the memory-efficient kernel, which every card from V100 on has in every precision), where
    the meta device would compute it with matrices of L x L; a mask becomes a bias of one such matrix per example.
    """
    kept = F.dropout, F.scaled_dot_product_attention
    F.dropout, F.scaled_dot_product_attention = _dropout, _attention
    try:
        yield
    finally:
        F.dropout, F.scaled_dot_product_attention = kept


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(input, p, True)[0] if training and p > 0 else input


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    if enable_gqa:
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    if attn_mask is not None:
        attn_mask = _bias(attn_mask, query.dtype).expand(*query.shape[:3], key.shape[2])
    tracked = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    found = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, tracked, dropout_p, is_causal, scale=scale
    )
    output: Tensor = found[0]
    return output


def _bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What aten makes of a mask: a bias whose rows begin at aligned addresses."""
    bias = torch.where(mask, 0.0, float("-inf")).to(dtype) if mask.dtype == torch.bool else mask
    length = bias.shape[-1]
    return F.pad(bias, (0, -length % BIAS_ALIGNMENT))[..., :length] if length % BIAS_ALIGNMENT else bias
