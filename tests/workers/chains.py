"""Worker: MAT with two chains at some ZeRO stages and every update rule, with both noises, against the float64 oracle, also in
16 bits; what crosses between the chains; going on from a checkpoint; a chain whose loss is not finite; and local SGD. argv:
report, a folder, the stages."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator

from mat_ds.artifacts.conversion import whole_weights
from mat_ds.engine import checkpoint
from mat_ds.engine.export import gather_fp32
from mat_ds.errors import NonFiniteError
from mat_ds.ranks.chains import ONE_CHAIN, Chains, make_chains
from mat_ds.ranks.collectives import on_rank_zero
from mat_ds.storage.checkpoints import checkpoints_of, name_of
from tests.equivalence import oracle
from tests.equivalence.chains import run_chains
from tests.support.crossing import Crossing
from tests.support.drawn import DrawnNoise
from tests.support.expected import few
from tests.support.tiny import global_batches, shallow_roberta
from tests.workers.chains_sent import errors_that_are_sent_later, sent, sent_after_local_steps
from tests.workers.worker import FP32, LR, MAT, ORACLE_OPTIONS, PRECISION, STAGES, ds_json, main, make, steps


def body(world, report):
    get_accelerator().is_fp16_supported = lambda: True  # for this test alone: the CPU's fp16 is slow, not wrong
    folder, micro, stages = Path(sys.argv[2]), 2, [int(stage) for stage in sys.argv[3:]]
    batches, origin, chains = global_batches(), dict(shallow_roberta().named_parameters()), make_chains(2)
    for update, lr in LR.items():
        method = {**MAT, "delta_noise": 0.02, "theta_noise": 0.05 if update == "adam" else 0.005}
        settings = oracle.Settings(update=update, lr=lr, **{k: method[k] for k in ORACLE_OPTIONS})
        noises = [DrawnNoise(shallow_roberta(), method, batches, lr, chains=Chains(2, own)) for own in (0, 1)]
        expected = run_chains(shallow_roberta(), batches, settings, noises) if world.rank == 0 else None
        for stage in stages:

            def fresh(precision=FP32, stage=stage, update=update, lr=lr, method=method, chains=chains):
                return make(world, ds_json(stage, precision), method, micro, {"name": update, "lr": lr}, chains=chains)

            engine, player = fresh()
            result = steps(world, engine, player, micro, batches, lr=lr)
            if world.rank == 0:
                report[f"oracle: {update} zero-{stage}"] = oracle.distance(result, expected, origin)
            engine.close()
            for half in halves(update, stage):
                engine, player = fresh(PRECISION[half])
                result = steps(world, engine, player, micro, batches, lr=lr)
                if world.rank == 0:
                    report[f"{half}: {update} zero-{stage}"] = oracle.distance(result, expected, origin)
                engine.close()
            if update == "adam":
                again(world, report, stage, fresh, batches, micro, lr, folder)
                local(world, report, stage, fresh, lr, folder)
    averaged = make_chains(2, moments=True)
    expected = run_chains(shallow_roberta(), batches, settings, noises, average_moments=True)
    engine, player = make(world, ds_json(2), method, micro, {"name": update, "lr": lr}, chains=averaged)
    result = steps(world, engine, player, micro, batches, lr=lr)
    if world.rank == 0:
        report["oracle: averaged moments"] = oracle.distance(result, expected, origin)
    engine.close()
    data_parallel(world, report, batches, micro)
    sent(world, report, stages, (settings, noises), method, batches, micro, lr, folder)
    sent_after_local_steps(world, report, stages, lr, folder)
    errors_that_are_sent_later(world, report)


def halves(update, stage):
    """The 16-bit precisions in which an update rule is tried at a stage; each meets each."""
    return [half for one, other, half in few(LR, STAGES, ("bf16", "fp16"), of=3) if (one, other) == (update, stage)]


def again(world, report, stage, fresh, batches, micro, lr, folder):
    """Counts what crosses, goes on from a checkpoint, and spoils the loss of one chain."""
    engine, player = fresh()
    with Crossing(engine.shards.chains, world) as crossing:
        first = steps_alone(world, engine, player, micro, batches[0], 0, lr)
    masters = sum(master.numel() for master in engine.shards.slices)
    report[f"crossing zero-{stage}"] = crossing.elements, masters
    where = folder / f"zero-{stage}"
    on_rank_zero(where.mkdir)
    checkpoint.save(engine, where, {"step": 1}, keep_last=1)
    expected = steps(world, engine, player, micro, batches[1:], first=1, lr=lr)
    engine.close()
    engine, player = fresh()
    checkpoint.load_checkpoint(engine, on_rank_zero(lambda: checkpoints_of(where)))
    result = steps(world, engine, player, micro, batches[1:], first=1, lr=lr)
    if world.rank == 0:
        report[f"resumed zero-{stage}"] = all(torch.equal(result[name], expected[name]) for name in expected)
    engine.close()

    engine, player = fresh(chains=ONE_CHAIN)  # and without chains
    checkpoint.load_checkpoint(engine, on_rank_zero(lambda: checkpoints_of(where)))
    result = gather_fp32(engine)
    if world.rank == 0:
        report[f"one chain from two zero-{stage}"] = all(torch.equal(result[name], first[name]) for name in first)
    engine.close()

    engine, player = fresh()
    own, spoilt = player.objective, engine.shards.chains.own == 1

    class Spoilt:
        directions, divergence = own.directions, own.divergence

        def loss(self, logits, batch):
            return own.loss(logits, batch) * (float("nan") if spoilt else 1.0)

    player.objective = Spoilt()
    try:
        steps_alone(world, engine, player, micro, batches[0], 0, lr)
    except NonFiniteError as error:
        raised = str(error)
    else:
        raised = ""
    found = [None] * world.size
    dist.all_gather_object(found, raised)
    report[f"spoilt zero-{stage}"] = all("not finite" in one for one in found)
    engine.close()


def steps_alone(world, engine, player, micro, batch, t, lr):
    """One outer step with its end, as in a run; returns the parameters."""
    from tests.support.tiny import micro_batches

    engine.begin(t, lr)
    engine.end(player.step(engine, micro_batches(batch, micro, world.rank, world.size)))
    return gather_fp32(engine)


def local(world, report, stage, fresh, lr, folder):
    """Three batches of local SGD, which meets after two of them and after the last; going on from in between; in one chain."""
    batches, micro, settings = global_batches(3), 2, oracle.Settings(lr=lr)
    expected = run_chains(shallow_roberta(), batches, settings, [oracle.NoNoise()] * 2, method="vanilla", every=2)
    engine, player = fresh(method={"name": "vanilla"})

    def go_on(first):
        return steps(world, engine, player, micro, batches[first:], first, lr, meets=lambda done: done in (2, 3))

    with Crossing(engine.shards.chains, world) as crossing:
        apart = steps(world, engine, player, micro, batches[:1], lr=lr, meets=lambda done: False)
    report[f"crossing before zero-{stage}"] = crossing.elements
    both = [None] * world.size
    dist.all_gather_object(both, {name: value.double() for name, value in gather_of_chain(engine).items()})
    where = folder / f"local-{stage}"
    on_rank_zero(where.mkdir)
    checkpoint.save(engine, where, {"step": 1}, keep_last=1)
    result = go_on(1)
    if world.rank == 0:
        report[f"oracle: local zero-{stage}"] = oracle.distance(result, expected, dict(shallow_roberta().named_parameters()))
    engine.close()
    engine, player = fresh(method={"name": "vanilla"})
    checkpoint.load_checkpoint(engine, on_rank_zero(lambda: checkpoints_of(where)))
    again = go_on(1)
    if world.rank == 0:
        report[f"resumed between meetings zero-{stage}"] = all(torch.equal(again[name], result[name]) for name in result)
    engine.close()
    engine, player = fresh(method={"name": "vanilla"}, chains=ONE_CHAIN)
    checkpoint.load_checkpoint(engine, on_rank_zero(lambda: checkpoints_of(where)))
    one = gather_fp32(engine)
    if world.rank == 0:
        chains = both[:: world.size // 2]
        middle = {name: (chains[0][name] + chains[1][name]) / 2 for name in apart}
        shapes = {name: value.shape for name, value in apart.items()}
        exported = whole_weights(where / name_of(1), "theta", shapes)
        report[f"apart zero-{stage}"] = not torch.equal(
            chains[0]["classifier.dense.weight"], chains[1]["classifier.dense.weight"]
        )
        for name, found in (("one chain from two apart", one), ("exported", exported)):
            report[f"{name} zero-{stage}"] = all(torch.allclose(found[key].double(), middle[key], 1e-6, 1e-8) for key in middle)
    engine.close()


def gather_of_chain(engine):
    """The parameters of this rank's chain, on each of its ranks."""
    return {name: engine.shards.whole(name).float().cpu() for name, _ in engine.ds.module.named_parameters()}


def data_parallel(world, report, batches, micro):
    """With one sample, plain SGD and no noise, chains that meet after each step are data parallelism."""
    for method in ({**MAT, "theta_steps": 1, "beta_p": 0.0}, {"name": "vanilla"}):
        results = []
        for own in (ONE_CHAIN, make_chains(2)):
            engine, player = make(world, ds_json(1), method, micro, {"name": "sgd", "lr": 1.0}, chains=own)
            results.append(steps(world, engine, player, micro, batches, lr=1.0))
            engine.close()
        if world.rank == 0:
            origin = dict(shallow_roberta().named_parameters())
            expected = {k: v.double() for k, v in results[0].items()}
            report[f"data parallel: {method['name']}"] = oracle.distance(results[1], expected, origin)


if __name__ == "__main__":
    main(body)
