"""Worker: one run with noise and dropout on, at each stage given, its parameters written to a file per stage."""

import sys

import torch

from tests.distributed.worker import MAT, ds_json, main, make, steps
from tests.tiny import global_batches, tiny_roberta

NOISY = {**MAT, "delta_noise": 2e-2, "theta_noise": 1e-2, "dropout": "independent"}


def body(world, report):
    folder, stages = sys.argv[2], sys.argv[3].split(",")
    for stage in map(int, stages):
        for dropout in ("independent", "frozen"):
            method = {**NOISY, "dropout": dropout, "theta_dropout": dropout}
            engine, player = make(world, ds_json(stage), method, micro=2, model=tiny_roberta(dropout=0.1), seed=5)
            result = steps(world, engine, player, 2, global_batches())
            engine.close()
            if world.rank == 0:
                torch.save(result, f"{folder}/{dropout}-zero-{stage}-ranks-{world.size}.pt")


if __name__ == "__main__":
    main(body)
