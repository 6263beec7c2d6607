"""Worker: MAT at every ZeRO stage and update rule against the float64 oracle, for one precision and accumulation."""

import sys

from deepspeed.accelerator import get_accelerator

from tests.equivalence import oracle
from tests.support.drawn import DrawnNoise
from tests.support.tiny import global_batches, shallow_roberta
from tests.workers.worker import LR, MAT, ORACLE_OPTIONS, PRECISION, STAGES, ds_json, main, make, steps


def body(world, report):
    precision, device = PRECISION[sys.argv[2]], get_accelerator().current_device_name()
    batches, origin = global_batches(), dict(shallow_roberta().named_parameters())
    accumulation = int(sys.argv[3])
    for update, lr in LR.items():
        micro = 8 // accumulation // world.size
        settings = oracle.Settings(update=update, lr=lr, **{k: MAT[k] for k in ORACLE_OPTIONS})
        noise = DrawnNoise(shallow_roberta(), MAT, batches, lr, device=device)
        expected = oracle.run(shallow_roberta(), batches, settings, noise=noise) if world.rank == 0 else None
        for stage in STAGES:
            engine, player = make(world, ds_json(stage, precision), micro=micro, optimizer={"name": update, "lr": lr})
            result = steps(world, engine, player, micro, batches, lr=lr)
            if world.rank == 0:
                report[f"{update} zero-{stage} accumulation {accumulation}"] = oracle.distance(result, expected, origin)
            engine.close()


if __name__ == "__main__":
    main(body)
