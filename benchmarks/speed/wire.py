"""The bytes that a rank sends for an update, in units of P, the bytes of all parameters; measured on two CPU processes.

A gather, a reduction and a reduce-scatter of all parameters send 1 P (in a ring of N ranks each sends (N-1)/N of it), an
all-reduce, which is both, 2 P.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.speed.timing import Figure

RANKS, STAGES, JUDGED, ACCUMULATIONS, UPDATES = 2, (1, 2, 3), (1, 2), (1, 2), 3
LOOP = {"delta_steps": 5, "theta_steps": UPDATES}


def measure() -> Figure:
    """The maximum over ZeRO-1 and 2, with two ranks and two micro-batches; the details have every stage and one, too, and what
    ZeRO-3 sends in the perturbation's loops."""
    found, wrong = on_ranks("benchmarks.speed.wire", RANKS)
    if wrong:
        return Figure(None, {}, wrong)
    return Figure(max(found[f"zero{stage}, {ACCUMULATIONS[-1]} micro-batches"]["sent"] for stage in JUDGED), found)


def on_ranks(module: str, count: int) -> tuple[dict[str, Any], str | None]:
    """Runs `python -m module REPORT` as each of `count` ranks on the CPU; the report of rank 0, and what went wrong."""
    from mat_ds.ranks.ports import free_port

    world = {"WORLD_SIZE": str(count), "LOCAL_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    on_cpu = {**os.environ, **world, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        ranks = [
            subprocess.Popen(
                [sys.executable, "-m", module, str(report)],
                env={**on_cpu, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=sys.stderr,
            )
            for rank in range(count)
        ]
        codes = [rank.wait() for rank in ranks]
        if any(codes):
            return {}, f"ranks ended with the codes {codes}"
        return json.loads(report.read_text()), None


def sent(name: str, *args: Any) -> int:
    """Bytes of a collective's larger argument, which has the data of all ranks; twice that for an all-reduce."""
    sizes = [sum(tensor.nbytes for tensor in tensors(argument)) for argument in args]
    return (2 if name.startswith("allreduce") else 1) * max(sizes, default=0)


def tensors(argument: Any) -> list[torch.Tensor]:
    """The tensors in an argument, which may be a list of lists."""
    if isinstance(argument, torch.Tensor):
        return [argument]
    return [tensor for part in argument for tensor in tensors(part)] if isinstance(argument, list | tuple) else []


def main() -> None:
    """Runs one rank; rank 0 writes the report."""
    from transformers import BertConfig, BertForSequenceClassification

    from benchmarks.speed.counts import TINY, collectives
    from benchmarks.speed.step import Product, batches
    from mat_ds.engine.group import process_group
    from mat_ds.ranks.world import World

    world, report = World.from_environment(), {}
    inputs, labels = batches(None, None)[0]
    with process_group(world):
        for stage, accumulation in product(STAGES, ACCUMULATIONS):
            torch.manual_seed(0)
            model = BertForSequenceClassification(BertConfig(**TINY))
            size = sum(parameter.nbytes for parameter in model.parameters())
            run = Product(model, accumulation, world, stage, delta_steps=1, theta_steps=UPDATES)
            run.step(inputs, labels)
            run.step(inputs, labels)  # ZeRO-3 learns the order of its gathers
            with collectives(sent) as found:
                run.step(inputs, labels)
            run.engine.close()
            by_kind = {name: round(count / UPDATES / size, 3) for name, count in found.items()}
            what = f"zero{stage}, {accumulation} micro-batch{'es' if accumulation > 1 else ''}"
            report[what] = {"sent": round(found.total() / UPDATES / size, 3), "by_kind": by_kind}
        for gather, accumulation in product(("layer", "model"), ACCUMULATIONS):
            torch.manual_seed(0)
            run = Product(BertForSequenceClassification(BertConfig(**TINY)), accumulation, world, 3, gather=gather, **LOOP)
            run.step(inputs, labels)
            run.step(inputs, labels)
            with collectives(sent) as step:
                run.step(inputs, labels)
            with collectives(sent) as loops:
                for micro in run.micro_batches(inputs, labels):
                    run.player.mean_delta(run.engine, micro)
            run.engine.close()
            what = f"zero3, the perturbation's loops of {accumulation}, by {gather}"
            report[what] = {"sent": round(loops.total() / size, 3), "outer_step": round(step.total() / size, 3)}
    if world.rank == 0:
        Path(sys.argv[1]).write_text(json.dumps(report))


if __name__ == "__main__":
    main()
