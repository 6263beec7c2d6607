"""Counts the host's waits for the device, and the collectives between ranks."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from deepspeed.accelerator import get_accelerator
from torch.distributed import ProcessGroup
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.speed.step import Product, alone, batches
from benchmarks.speed.timing import Figure

# Operations that give values to the host: `.item()`, `bool()`, `float()`, `.tolist()`, comparisons, value-dependent shapes.
READS = {"_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "_unique2", "unique_dim"}
# Names of torch 2.10 to 2.13.
COLLECTIVES = (
    "allreduce", "allreduce_coalesced", "reduce", "broadcast", "allgather", "_allgather_base", "all_gather_single",
    "allgather_into_tensor_coalesced", "all_gather_single_coalesced", "gather", "scatter", "reduce_scatter",
    "_reduce_scatter_base", "reduce_scatter_single", "reduce_scatter_tensor_coalesced", "reduce_scatter_single_coalesced",
    "alltoall", "alltoall_base", "all_to_all_single", "send", "recv", "barrier",
)  # fmt: skip
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


class Reads(TorchDispatchMode):
    """Counts reads of values from tensors on any device."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in READS:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def waits() -> Iterator[Counter[str]]:
    """A context that counts waits: DeepSpeed's explicit synchronisations, and on a GPU the waits that torch reports, on a CPU
    the reads of values that would be waits on a GPU."""
    accelerator = type(get_accelerator())
    found, synchronize = Counter[str](), accelerator.synchronize

    def asked(*args: Any, **kwargs: Any) -> Any:
        found["synchronize"] += 1
        return synchronize(*args, **kwargs)

    with patch.object(accelerator, "synchronize", asked), _unasked(found):
        yield found


@contextmanager
def _unasked(found: Counter[str]) -> Iterator[None]:
    if not torch.cuda.is_available():
        with Reads(found):
            to_list = torch.Tensor.tolist

            def counted(tensor: torch.Tensor) -> Any:
                found["tolist"] += tensor.dim() > 0  # for a single number it calls `.item()`
                return to_list(tensor)

            with patch.object(torch.Tensor, "tolist", counted):
                yield
        return
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            yield
        found["synchronizing"] = sum("synchronizing" in str(one.message) for one in said)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def once(*args: Any) -> int:
    """Each collective counts as one."""
    return 1


@contextmanager
def collectives(weigh: Callable[..., int] = once) -> Iterator[Counter[str]]:
    """A context that counts the collectives of all process groups.

    Args:
        weigh: the count of one collective, from its name and arguments.
    """
    found: Counter[str] = Counter()

    def counting(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(group: Any, *args: Any, **kwargs: Any) -> Any:
            found[name] += weigh(name, *args, *kwargs.values())
            return original(group, *args, **kwargs)

        return call

    patches = [
        patch.object(ProcessGroup, name, counting(name, getattr(ProcessGroup, name)))
        for name in COLLECTIVES
        if hasattr(ProcessGroup, name)
    ]
    for one in patches:
        one.start()
    try:
        yield found
    finally:
        for one in patches:
            one.stop()


@contextmanager
def tiny(accumulation: int) -> Iterator[tuple[Product, Any]]:
    """A run with K 5 / 10 of a model so small that only the number of calls matters, and a batch for it."""
    with alone() as device:
        product = Product(BertForSequenceClassification(BertConfig(**TINY)), accumulation, delta_steps=5, theta_steps=10)
        inputs, labels = batches(None, None)[0]
        yield product, ({name: value.to(device) for name, value in inputs.items()}, labels.to(device))
        product.engine.close()


def host_waits() -> Figure:
    """Waits in one outer step with K 5 / 10, ZeRO-1 and one micro-batch."""
    with tiny(accumulation=1) as (product, batch):
        product.step(*batch)
        with waits() as found:
            product.step(*batch)
    return Figure(found.total(), {"by_kind": dict(found)})


def loop_collectives() -> Figure:
    """Collectives in the perturbation's loops and in the whole of one outer step with K 5, ZeRO-1 and two micro-batches."""
    with tiny(accumulation=2) as (product, batch):
        product.step(*batch)
        with collectives() as whole:
            product.step(*batch)
        with collectives() as found:
            for micro in product.micro_batches(*batch):
                product.player.mean_delta(product.engine, micro)
    return Figure(found.total(), {"in_the_loop": dict(found), "in_the_outer_step": dict(whole)})
