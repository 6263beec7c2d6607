"""Worker: telemetry against plain torch, a run with telemetry against one without, and the pre-flight at three precisions."""

import math

import torch
from deepspeed.accelerator import get_accelerator

from mat_ds.training.telemetry import FACTORS, below_resolution, measure
from tests.equivalence.oracle import symmetric_divergence
from tests.support.expected import PRECISIONS, STAGES, few
from tests.support.kinds import CLASSIFICATION
from tests.support.tiny import global_batches, micro_batches, shallow_roberta
from tests.workers.worker import MAT, PRECISION, ds_json, main, make, steps

METHODS = {"mat": {**MAT, "dropout": "independent"}, "rdrop": {"name": "rdrop"}, "freelb": {"name": "freelb"}}
OBJECTIVE = CLASSIFICATION


def watched(world, engine, player, batches):
    """Makes outer steps with a measurement before each; returns the last measurement, and theta before it."""
    found, before = {}, {}
    for t, batch in enumerate(batches):
        own = micro_batches(batch, 2, world.rank, world.size)
        before = steps(world, engine, player, 2, [])
        engine.begin(t, 1e-3, t / len(batches), watch=True)
        found = measure(engine, player, own[0])
        player.step(engine, own)
        found["moved_by_chain"], found["moved"] = engine.moved
    return found, before


def expected(weights, batch, delta):
    """R and L without dropout, in plain torch."""
    model = shallow_roberta().double()
    model.load_state_dict({name: value.double() for name, value in weights.items()}, strict=False)
    clean = model(**batch.inputs).logits
    words = model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: output + delta.double())
    perturbed = model(**batch.inputs).logits
    words.remove()
    task = torch.nn.functional.cross_entropy(clean, batch.labels)
    r = symmetric_divergence(clean, perturbed, False).mean()
    return {"R_eval": float(r), "L": float(task)}


def body(world, report):
    get_accelerator().is_fp16_supported = lambda: True
    batches = global_batches(examples=4 * world.size)
    for name, precision, stage in (*few(("mat",), PRECISIONS, STAGES), *few(("rdrop", "freelb"), PRECISIONS, (2, 3))):
        tree, size = ds_json(stage, PRECISION[precision]), 4 * world.size
        (one, player), (two, again) = (
            make(world, tree, METHODS[name], 2, {"max_grad_norm": 0.1}, shallow_roberta(dropout=0.1), batch=size)
            for _ in range(2)
        )
        found, before = watched(world, one, player, batches)
        plain, seen = steps(world, two, again, 2, batches), steps(world, one, player, 2, [])
        key = f"{name}, {precision}, zero-{stage}"
        report[f"undisturbed, {key}"] = all(torch.equal(plain[k], seen[k]) for k in plain)
        if world.rank == 0:
            far = math.sqrt(sum((seen[k].double() - before[k].double()).pow(2).sum() for k in seen))
            report[f"moved, {key}"] = abs(found["moved"] / far - 1)
        report[f"values, {key}"] = {k: v for k, v in found.items() if not math.isfinite(v)}
        one.close()
        two.close()

    # The same micro-batch on all ranks, so that their mean is its value.
    (batch,) = micro_batches(global_batches(1, examples=4)[0], 4)
    for stage in STAGES:
        engine, player = make(world, ds_json(stage), MAT, 4, {"max_grad_norm": 1e-3}, batch=4 * world.size)
        weights = steps(world, engine, player, 4, [])
        engine.begin(0, 0.0)
        delta = player.adversary(engine, batch).detach()
        found = measure(engine, player, batch)
        if world.rank == 0:
            truth = expected(weights, batch, delta)
            report[f"truth, zero-{stage}"] = max(abs(found[k] / truth[k] - 1) for k in truth)
        engine.close()

    for precision in PRECISIONS:
        for radius in (1e-5, 1e-4, 1e-3, 1e-2):
            method = {**MAT, "delta_max_norm": radius, "delta_init_scale": radius, "delta_lr": radius}
            engine, player = make(world, ds_json(2, PRECISION[precision]), method, 4, batch=4 * world.size)
            engine.begin(0, 0.0)
            problem = next(below_resolution(engine, player, player.adversary(engine, batch).detach(), batch), None)
            report[f"pre-flight, {precision}, {radius:.0e}"] = problem and f"{problem.reason}; {problem.fix}"
            engine.close()
    assert len(FACTORS) == 41


if __name__ == "__main__":
    main(body)
