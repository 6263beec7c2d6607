"""Worker: one run with noise and dropout on, at each stage given, its parameters written to a file per stage; and, with two
ranks or fewer, runs without dropout at each size of a micro-batch; and, with two, runs whose passes are replayed."""

import sys
from pathlib import Path

import torch

from mat_ds.engine.export import gather_fp32
from mat_ds.models.unpadded import remove_padding
from mat_ds.ranks.collectives import all_reduce_sum
from tests.support import families
from tests.support.replayed import Rerun
from tests.support.tiny import global_batches, micro_batches, shallow_roberta
from tests.workers.worker import BF16, MAT, ds_json, main, make, steps

NOISY = {**MAT, "delta_noise": 2e-2, "theta_noise": 1e-2, "dropout": "independent"}
CUT = {
    "mat": {**NOISY, "delta_noise": 1e-1},
    "freelb": {"name": "freelb", "delta_lr": 0.4, "delta_init_norm": 0.3, "delta_max_norm": 0.5},
    "r3f": {"name": "r3f", "lam": 3.0, "noise_scale": 0.1},
}
# Layouts in which weights stay where they are.
REPLAYED = {
    **{f"zero-{stage}": ds_json(stage) for stage in (0, 1, 2)},
    **{f"bf16 zero-{stage}": ds_json(stage, BF16) for stage in (0, 1, 2)},
    "offload zero-2": ds_json(2, offload_optimizer={"device": "cpu"}),
}


def body(world, report):
    folder, stages = sys.argv[2], sys.argv[3].split(",")
    for stage in map(int, stages):
        for dropout in ("independent", "frozen"):
            method = {**NOISY, "dropout": dropout, "theta_dropout": dropout}
            engine, player = make(world, ds_json(stage), method, micro=2, model=shallow_roberta(dropout=0.1), seed=5)
            result = steps(world, engine, player, 2, global_batches())
            engine.close()
            if world.rank == 0:
                torch.save(result, f"{folder}/{dropout}-zero-{stage}-ranks-{world.size}.pt")
    if world.size <= 2 and (Path(folder) / "cut").exists():
        for name, method in CUT.items():
            for micro in (1, 4 // world.size, 8 // world.size):
                found = cut(world, method, micro)
                if world.rank == 0:
                    torch.save(found, Path(folder) / "cut" / f"{name}-micro-{micro}-ranks-{world.size}.pt")
    if world.size == 2 and (Path(folder) / "replayed").exists():
        for name, tree in REPLAYED.items():
            pairs = [replayed(world, tree, replays) for replays in (False, True)]
            if world.rank == 0:
                torch.save(pairs, Path(folder) / "replayed" / f"{name}.pt")


def replayed(world, tree, replays):
    """(parameters, passes captured, still known and replayed) of three outer steps with passes replayed, or made as ever."""
    model = shallow_roberta(dropout=0.1)
    remove_padding(model, 16)
    pool = Rerun(model) if replays else None
    engine, player = make(world, tree, NOISY, micro=2, model=model, seed=5, capture=pool)
    result = steps(world, engine, player, 2, global_batches(3))
    graphs = engine.graphs
    engine.close()
    # Passes are forgotten where weights moved.
    return result, (graphs.captured, len(graphs._passes), graphs.replayed) if graphs else None


def cut(world, method, micro):
    """(first loss, parameters) of two outer steps of a decoder without dropout."""
    # Its attention has biases without a gradient, and Adam would turn their rounding errors into steps.
    engine, player = make(world, ds_json(2), method, micro, {"name": "sgd"}, families.build("gpt2"), seed=5)
    for t, batch in enumerate(global_batches()):
        engine.begin(t, 1e-2)
        means = player.step(engine, micro_batches(batch, micro, world.rank, world.size))
        if t == 0:
            loss = all_reduce_sum(means["loss"].double()) / world.size
    parameters = gather_fp32(engine)
    engine.close()
    return float(loss), parameters


if __name__ == "__main__":
    main(body)
