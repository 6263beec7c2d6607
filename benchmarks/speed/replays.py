"""Sections of `benchmarks.gpu_check`: what replaying passes as CUDA graphs is worth."""

from __future__ import annotations

import time
from itertools import cycle
from typing import Any

import torch
from torch import nn

from benchmarks.speed.card import MNLI_LENGTHS, TOKENS, Check, Found, closing, seconds
from benchmarks.speed.step import LENGTHS
from benchmarks.speed.timing import wait
from mat_ds.models.packing import LENGTH_STEP, TOKEN_STEP


def graphs(check: Check, found: Found) -> None:
    """Seconds of our outer step (ZeRO-1, bf16, K 5 / 10) on batches of the same steps of tokens and lengths, with the passes of
    the perturbation's loop made and replayed: 32 x 128, and the lengths of CoLA and MNLI in batches of several shapes."""
    every = {"padded": (TOKENS,), "cola": LENGTHS, "mnli": MNLI_LENGTHS}
    for how in ("made", "replayed"):
        model = check.model()
        capture = _capture(check, model) if how == "replayed" else None
        with closing(check.product(model=model, delta_steps=5, theta_steps=10, capture=capture, token_step=TOKEN_STEP)) as own:
            for name, lengths in every.items():
                batches = [check.batch(lengths, turn, LENGTH_STEP) for turn in range(4)]
                start, turns = time.perf_counter(), cycle(batches)
                for batch in batches:
                    own.step(*batch)
                wait()
                first = round(time.perf_counter() - start, 2)
                took = seconds(lambda own=own, turns=turns: own.step(*next(turns)), 4)
                found.setdefault(name, {})[how] = {"seconds": took, "first_four_s": first}
            if own.engine.graphs:
                found["captured"] = own.engine.graphs.captured
        if check.device.type == "cuda":
            found[f"peak_mib_{how}"] = torch.cuda.max_memory_allocated() >> 20
            torch.cuda.reset_peak_memory_stats()
    for name in every:
        found[name]["speedup"] = round(found[name]["made"]["seconds"] / found[name]["replayed"]["seconds"], 3)


def _capture(check: Check, model: nn.Module) -> Any:
    """On a CPU, what stands in for a graph, so that the script can be tried."""
    if check.device.type == "cuda":
        from mat_ds.engine.graphs import capture_on_card

        return capture_on_card()
    from tests.support.replayed import Rerun

    return Rerun(model)
