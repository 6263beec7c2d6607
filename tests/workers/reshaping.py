"""Worker: continues what another number of ranks saved at another ZeRO stage (`resuming.py`), against the uninterrupted run."""

import sys
from pathlib import Path

import torch
from deepspeed.accelerator import get_accelerator

from mat_ds.engine import checkpoint
from mat_ds.engine.export import gather_fp32
from mat_ds.storage.checkpoints import checkpoints_of
from tests.equivalence import oracle
from tests.support.expected import continued
from tests.support.tiny import global_batches, shallow_roberta
from tests.workers.averaging import AVERAGES
from tests.workers.keyed import NOISY
from tests.workers.worker import PRECISION, ds_json, main, make, steps


def body(world, report):
    get_accelerator().is_fp16_supported = lambda: True
    folder, micro, batches = Path(sys.argv[2]), 8 // int(sys.argv[3]) // 2, global_batches(2)
    origin = dict(shallow_roberta().named_parameters())
    for name, before, now in continued(world.size):
        where = folder / f"{name}-zero-{before}"
        engine, player = make(
            world, ds_json(now, PRECISION[name]), NOISY, micro, model=shallow_roberta(dropout=0.1), averages=AVERAGES
        )
        state, passed_over = checkpoint.load_checkpoint(engine, checkpoints_of(where))
        assert state["step"] == 1 and not passed_over
        results = [steps(world, engine, player, micro, batches[1:], first=1)]
        for average in AVERAGES:
            with engine.averaged_weights(average):
                results.append(gather_fp32(engine))
        engine.close()
        if world.rank == 0:
            weights, averages = torch.load(where / "expected.pt", weights_only=True)
            far = [oracle.distance(r, e, origin) for r, e in zip(results, (weights, *averages), strict=True)]
            report[f"{name}, zero-{before} to zero-{now}"] = max(far)


if __name__ == "__main__":
    main(body)
