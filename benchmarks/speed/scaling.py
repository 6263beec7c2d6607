"""Outer steps of MAT on 1, 2 and 4 processes with one thread each, at one global batch."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import closing
from pathlib import Path
from statistics import median

import torch

from benchmarks.speed.timing import Figure
from benchmarks.speed.wire import on_ranks

COUNTS, STEPS, BATCH = (1, 2, 4), 5, 16


def measure() -> Figure:
    """The time of one process divided by that of two, by the wall."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    found = {}
    for count in COUNTS:
        report, wrong = on_ranks("benchmarks.speed.scaling", count)
        if wrong:
            return Figure(None, found, wrong)
        found[f"ranks: {count}"] = report
    busy = f"the load was {load:.1f} before, on {cores} cores" if load > 1 else None
    return Figure(None if busy else round(found["ranks: 1"]["wall_ms"] / found["ranks: 2"]["wall_ms"], 3), found, busy)


def main() -> None:
    """Runs one rank; rank 0 writes the report."""
    from transformers import BertConfig, BertForSequenceClassification

    from benchmarks.speed.step import Product, batches
    from mat_ds.engine.group import process_group
    from mat_ds.ranks.collectives import all_reduce_sum
    from mat_ds.ranks.world import World

    torch.set_num_threads(1)
    world, times = World.from_environment(), []
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    with process_group(world):
        run = Product(BertForSequenceClassification(config), world=world, batch=BATCH, delta_steps=3, theta_steps=3)
        with closing(run.engine):
            for inputs, labels in [batches(None, None)[0]] * (STEPS + 1):
                start = time.perf_counter(), time.process_time()
                run.step(inputs, labels)
                times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
            wall, cpu = (median(each[i] for each in times[1:]) for i in (0, 1))
            cpu_of_all = float(all_reduce_sum(torch.tensor(cpu, dtype=torch.float64)))
    if world.rank == 0:
        report = {"wall_ms": round(1000 * wall, 1), "processor_ms_of_all": round(1000 * cpu_of_all, 1)}
        Path(sys.argv[1]).write_text(json.dumps(report))


if __name__ == "__main__":
    main()
