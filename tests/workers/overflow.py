"""Worker: fp16 steps that overflow, losses that are not finite, and the parameters after each."""

import torch
from deepspeed.accelerator import get_accelerator

from mat_ds.engine.export import gather_fp32
from mat_ds.errors import NonFiniteError
from tests.equivalence import oracle
from tests.support.tiny import global_batches, micro_batches, shallow_roberta
from tests.workers.worker import BF16, FP16, FP32, MAT, STAGES, ds_json, main, make, steps

HIGH = {"fp16": {"enabled": True, "initial_scale_power": 24, "hysteresis": 1}}
LOW = {"fp16": {"enabled": True, "initial_scale_power": 8, "hysteresis": 1}}
STUCK = {"fp16": {"enabled": True, "initial_scale_power": 24, "hysteresis": 1, "min_loss_scale": 2**24}}


def infinite_gradient(loss):
    """The same loss, but its gradient is not finite."""
    same = loss * 1.0
    same.register_hook(lambda gradient: gradient * float("inf"))
    return same


def body(world, report):
    get_accelerator().is_fp16_supported = lambda: True
    micro, batches = 4 // world.size, global_batches(2)
    origin = dict(shallow_roberta().named_parameters())
    for stage in STAGES:
        # The same run, from a loss scale that overflows repeatedly and from one that never does. They are equal but for
        # rounding, so a skipped sample left no update, no noise and no mixture behind, and no outer step lacks a sample.
        found, skipped = [], []
        for precision in (HIGH, LOW):
            engine, player = make(world, ds_json(stage, precision), {**MAT, "theta_noise": 1e-2}, micro)
            skips = 0
            for t, batch in enumerate(batches):
                engine.begin(t, 1e-3)
                here = {name: tensor.to(engine.device) for name, tensor in batch.items()}
                player.step(engine, micro_batches(here, micro, world.rank, world.size))
                skips += engine.skipped_since_begin
                assert engine.sampler.updates == MAT["theta_steps"] * (t + 1)
            found.append(gather_fp32(engine))
            skipped.append(skips)
            engine.close()
        if world.rank == 0:
            report[f"overflow zero-{stage}"] = [
                *skipped,
                oracle.distance(found[0], {name: p.double() for name, p in found[1].items()}, origin),
            ]

        for name, precision, break_it in (
            ("loss", FP32, lambda loss: loss * float("nan")),
            ("loss bf16", BF16, lambda loss: loss * float("inf")),
            ("one rank's loss", FP32, lambda loss: loss * (float("nan") if world.rank else 1.0)),
            ("loss fp16", FP16, lambda loss: loss * float("nan")),
            ("scale", STUCK, lambda loss: loss),
            ("gradient", FP32, infinite_gradient),
            ("gradient bf16", BF16, infinite_gradient),
        ):
            engine, player = make(world, ds_json(stage, precision), MAT, micro)
            before = gather_fp32(engine)
            backward = engine.backward
            engine.backward = lambda loss, run=backward, b=break_it: run(b(loss))
            try:
                steps(world, engine, player, micro, batches[:1])
                here = {name: tensor.to(engine.device) for name, tensor in batches[0].items()}
                engine.check(micro_batches(here, micro)[0])
                raised = False
            except NonFiniteError:
                raised = True
            expected = name != "one rank's loss" or world.size > 1
            after = gather_fp32(engine)
            # ZeRO-0 in fp32 checks no gradient; the damage is found before anything is saved.
            too_late = name == "gradient" and stage == 0
            untouched = too_late or not expected or all(torch.equal(after[key], before[key]) for key in before)
            report[f"{name} zero-{stage}"] = raised == expected and untouched
            engine.close()


if __name__ == "__main__":
    main(body)
