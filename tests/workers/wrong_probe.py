"""Worker: the perturbation's gradient taken through DeepSpeed's engine at ZeRO-3, which is wrong, and the waits of a step.

The engine's hooks divide every gradient of its outputs by the accumulation steps: no error, but too small a perturbation.
"""

import sys
from collections import Counter
from contextlib import contextmanager

import torch
from deepspeed.accelerator import get_accelerator
from torch.utils._python_dispatch import TorchDispatchMode

from mat_ds.engine.engine import Engine
from mat_ds.methods.mat import Mat
from tests.equivalence import oracle
from tests.support.drawn import DrawnNoise
from tests.support.tiny import global_batches, micro_batches, shallow_roberta
from tests.workers.gathering import compared
from tests.workers.worker import LR, MAT, ORACLE_OPTIONS, ds_json, main, make, steps


def through_the_engine(self, batch, masks, delta):
    self._drop(batch, masks)
    with self._perturbation.applied(delta):
        return self._read(self.ds(**batch.inputs), batch.inputs)


class Reads(TorchDispatchMode):
    """Counts the values that mat_ds reads from the device, without those that DeepSpeed and the model read."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            frame = sys._getframe(1)
            while frame and not any(part in frame.f_code.co_filename for part in ("/mat_ds/", "/deepspeed/", "/transformers/")):
                frame = frame.f_back
            self.count += bool(frame) and "/mat_ds/" in frame.f_code.co_filename
        return function(*args, **(kwargs or {}))


@contextmanager
def counted(calls):
    """A context that records the name of every collective of torch.distributed that is called."""
    names = ("all_reduce", "all_gather", "broadcast", "reduce", "all_gather_object", "broadcast_object_list", "barrier")
    originals = {name: getattr(torch.distributed, name) for name in names}
    for name, original in originals.items():
        setattr(torch.distributed, name, lambda *a, n=name, f=original, **k: calls.append(n) or f(*a, **k))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(torch.distributed, name, original)


def talk(world, report):
    """The collectives of the perturbation's loop, and the values read during an outer step, with accumulation 2."""
    get_accelerator().is_fp16_supported = lambda: True
    fixed = {"fp16": {"enabled": True, "loss_scale": 1.0}}
    for name, tree in {**{f"zero-{stage}": ds_json(stage) for stage in (0, 1, 2)}, "fp16 zero-1": ds_json(1, fixed)}.items():
        engine, player = make(world, tree, {**MAT, "dropout": "independent", "theta_noise": 1e-3}, micro=2)
        engine.begin(0, 1e-3)
        calls, per_loop, mean_delta = [], [], Mat.mean_delta

        def looked_at(self, *arguments, calls=calls, per_loop=per_loop, original=mean_delta):
            before = len(calls)
            delta = original(self, *arguments)
            per_loop.append(len(calls) - before)
            return delta

        Mat.mean_delta = looked_at
        with counted(calls), Reads() as reads:
            measured = player.step(engine, micro_batches(global_batches()[0], 2, world.rank, world.size))
            in_step, collectives = reads.count, len(calls)
            engine.end(measured)
        Mat.mean_delta = mean_delta
        if world.rank == 0:
            report[name] = {
                "loops": per_loop,
                "updates": Counter(calls[:collectives]),
                "step": in_step,
                "all": reads.count - in_step,
            }
        engine.close()


def body(world, report):
    talk(world, report)
    compared(world, report)
    right_probe = Engine._inner
    micro, batches, origin = 2, global_batches(), dict(shallow_roberta().named_parameters())
    raw = {"delta_gradient": "raw", "delta_lr": 5.0}
    settings = oracle.Settings(lr=LR["adam"], **{**{k: MAT[k] for k in ORACLE_OPTIONS}, **raw})
    noise = DrawnNoise(shallow_roberta(), {**MAT, **raw}, batches)
    expected = oracle.run(shallow_roberta(), batches, settings, noise=noise) if world.rank == 0 else None
    for name, probe in (("right", right_probe), ("wrong", through_the_engine)):
        Engine._inner = probe
        engine, player = make(world, ds_json(3), {**MAT, **raw}, micro, optimizer={"name": "adam", "lr": LR["adam"]})
        result = steps(world, engine, player, micro, batches, lr=LR["adam"])
        if world.rank == 0:
            report[name] = oracle.distance(result, expected, origin)
        engine.close()


if __name__ == "__main__":
    main(body)
