"""Worker: what would happen if the perturbation's gradient were taken through DeepSpeed's engine at ZeRO-3.

Its hooks divide every gradient that leaves its outputs by the accumulation steps: no error, a perturbation too small.
"""

from mat_ds.engine.engine import Engine
from tests.equivalence import oracle
from tests.support.tiny import KeyedNoise, global_batches, tiny_roberta
from tests.workers.worker import LR, MAT, ORACLE_OPTIONS, ds_json, main, make, steps


def through_the_engine(self, batch, masks, delta=None):
    with self._perturbation.applied(delta), self._dropout(batch, masks):
        return self.ds(**batch.inputs).logits


def body(world, report):
    right_probe = Engine.probe
    micro, batches, origin = 2, global_batches(), dict(tiny_roberta().named_parameters())
    raw = {"delta_gradient": "raw", "delta_lr": 5.0}
    settings = oracle.Settings(lr=LR["adam"], **{**{k: MAT[k] for k in ORACLE_OPTIONS}, **raw})
    expected = oracle.run(tiny_roberta(), batches, settings, noise=KeyedNoise(batches)) if world.rank == 0 else None
    for name, probe in (("right", right_probe), ("wrong", through_the_engine)):
        Engine.probe = probe
        engine, player = make(world, ds_json(3), {**MAT, **raw}, micro, optimizer={"name": "adam", "lr": LR["adam"]})
        result = steps(world, engine, player, micro, batches, lr=LR["adam"])
        if world.rank == 0:
            report[name] = oracle.distance(result, expected, origin)
        engine.close()


if __name__ == "__main__":
    main(body)
