"""Worker: one step of MAT for every model family at ZeRO-2 and 3, in fp32, bf16 and fp16, half of them with checkpointing."""

import torch
from deepspeed.accelerator import get_accelerator

from mat_ds.models.recompute import recompute_activations
from mat_ds.models.unpadded import remove_padding
from tests.equivalence import oracle
from tests.support import families
from tests.support.tiny import global_batches, micro_batches
from tests.workers.worker import BF16, FP16, FP32, MAT, ds_json, main, make, steps

# With noise and in training mode: without dropout passes give the same in both modes, and only training mode checkpoints.
METHOD = {**MAT, "delta_noise": 1e-2, "theta_noise": 1e-3, "dropout": "independent"}
SGD, LR = {"name": "sgd", "lr": 1e-2, "weight_decay": 0.0}, 1e-2
RUNS = {
    "fp32, zero-2": (2, FP32, False),
    "fp32 checkpointed, zero-3": (3, FP32, True),
    "bf16 checkpointed, zero-2": (2, BF16, True),
    "bf16, zero-3": (3, BF16, False),
    "fp16, zero-2": (2, FP16, False),
    "fp16 checkpointed, zero-3": (3, FP16, True),
}


def alone(family, batches, player, micro, dtype):
    """The parameters with which one process in plain torch ends, in the same precision."""
    model = families.build(family)
    passes = model if dtype == torch.float32 else families.Rounded(model, dtype)
    engine = families.SamplingEngine(passes, player.chain, "sgd", backwards=len(batches[0]["labels"]) // micro)
    for t, batch in enumerate(batches):
        engine.begin(t, LR)
        player.step(engine, micro_batches(batch, micro))
    return dict(model.named_parameters())


def body(world, report):
    get_accelerator().is_fp16_supported = lambda: True  # for this test alone: the CPU's fp16 is slow, not wrong
    micro, batches = 2, global_batches(1, examples=8)
    for family in families.FAMILIES:
        origin, expected = dict(families.build(family).named_parameters()), {}
        for name in sorted(run for of, run in families.runs() if of == family):
            stage, precision, checkpointed = RUNS[name]
            model = families.build(family)
            remove_padding(model)  # the process in plain torch keeps its padding
            if checkpointed:
                recompute_activations(model)
            engine, player = make(world, ds_json(stage, precision), METHOD, micro, SGD, model)
            result = steps(world, engine, player, micro, batches, lr=LR)
            if world.rank == 0:
                dtype = engine.dtype
                if dtype not in expected:
                    expected[dtype] = alone(family, batches, player, micro, dtype)
                report[f"{family} {name}"] = oracle.distance(result, expected[dtype], origin)
            engine.close()


if __name__ == "__main__":
    main(body)
