"""Counts the bytes of the tensors that are alive while a model runs on the meta device.

Tensors on the meta device have shapes but no memory, so a model of any size can run in a second. The meta device has other
kernels for dropout and attention than a GPU, which keep other tensors; `gpu_kernels` replaces them by the GPU's.
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

# The rows of an attention bias are padded to a multiple of this many elements (aten's pad_bias).
BIAS_ALIGNMENT = 16


class Live(TorchDispatchMode):
    """A context that counts the bytes of tensors. `now`: created in it and still alive; `peak`: the maximum of `now`.

    Storage that several tensors share counts once. Models ask whether a batch has no padding. Tensors without values cannot
    tell, so the answer here is that it has some: then models make an attention mask, which needs more memory.

    Args:
        known: tensors that existed before and are not counted.
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
    """A context in which dropout and attention keep the same tensors for the backward pass as on a GPU.

    Dropout keeps a mask of one byte per element; on a CPU it keeps a factor in the compute dtype. Attention keeps query, key,
    value, output and one number per row and head, as the memory-efficient kernel does, which all GPUs from V100 on have in
    every precision; the meta device would use matrices of L x L. An attention mask becomes a bias of L x L per example.
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
    """The bias that aten makes of a mask, whose rows begin at aligned addresses."""
    bias = torch.where(mask, 0.0, float("-inf")).to(dtype) if mask.dtype == torch.bool else mask
    length = bias.shape[-1]
    return F.pad(bias, (0, -length % BIAS_ALIGNMENT))[..., :length] if length % BIAS_ALIGNMENT else bias
