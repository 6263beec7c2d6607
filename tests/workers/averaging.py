"""Worker: running averages of the parameters against the oracle; after `averaged_weights` the parameters are what they were."""

import torch
from deepspeed.accelerator import get_accelerator

from mat_ds.engine.export import gather_fp32
from mat_ds.sampling.average import Average
from tests.equivalence import oracle, rivals
from tests.support.expected import PRECISIONS, STAGES, few
from tests.support.tiny import global_batches, micro_batches, shallow_roberta
from tests.workers.worker import BF16, PRECISION, ds_json, main, make, steps

OFFLOAD = {"offload_optimizer": {"device": "cpu"}}
AVERAGES = {"uniform": Average(None), "moving": Average(0.7)}


def held(engine):
    """This rank's part of the working copies: whole parameters, or ZeRO-3's shards and persistent parameters."""
    tensors = [p.ds_tensor if hasattr(p, "ds_tensor") else p for p in engine.ds.module.parameters()]
    tensors += [p for p in engine.ds.module.parameters() if p.numel()]
    return [tensor.detach().clone() for tensor in (*tensors, *engine.shards.slices)]


def logits_with(weights, batch):
    model = shallow_roberta().eval()
    model.load_state_dict(weights, strict=False)
    with torch.no_grad():
        return model(**batch.inputs).logits


def body(world, report):
    get_accelerator().is_fp16_supported = lambda: True
    micro, batches, origin = 2, global_batches(2), dict(shallow_roberta().named_parameters())
    settings = rivals.Settings(decay=0.7, alpha=1.0)
    expected = rivals.run(shallow_roberta(), batches, settings, "rdrop", noise=None)
    layouts = {f"{name} zero-{stage}": ds_json(stage, PRECISION[name]) for name, stage in few(PRECISIONS, STAGES)}
    layouts |= {f"offload zero-{stage}": ds_json(stage, **OFFLOAD) for stage in (1, 2, 3)}
    layouts |= {"nothing persistent": ds_json(3, stage3_param_persistence_threshold=0)}
    layouts |= {"fp32 accumulation": ds_json(1, {**BF16, "data_types": {"grad_accum_dtype": "fp32"}})}
    for name, tree in layouts.items():
        engine, player = make(world, tree, {"name": "rdrop", "alpha": 1.0}, micro, averages=AVERAGES)
        (own, *_) = micro_batches(batches[0], micro, world.rank, world.size)
        result = steps(world, engine, player, micro, batches)
        before = held(engine)
        whole, predicted = {}, {}
        for average in AVERAGES:
            with engine.averaged_weights(average):
                whole[average] = gather_fp32(engine)
                predicted[average] = engine.predict(own.inputs).float()
        after = held(engine)
        share = 1 if name.endswith("zero-0") else world.size
        kept = sum(p.numel() for p in shallow_roberta().parameters()) * 4 * (2 + len(AVERAGES)) / share
        report[f"bytes, {name}"] = engine.sampler.state_bytes / kept
        report[f"student, {name}"] = all(torch.equal(p, q) for p, q in zip(before, after, strict=True))
        engine.begin(9, 0.0)
        logits = engine.forward(own, ("theta",))
        try:
            with engine.averaged_weights("moving"):
                report[f"refusal, {name}"] = False
        except RuntimeError:
            report[f"refusal, {name}"] = True
        engine.backward(logits.sum())
        if world.rank == 0:
            for found, wanted, kind in (
                (result, expected[0], "raw"),
                (whole["uniform"], expected[1], "uniform"),
                (whole["moving"], expected[2], "moving"),
            ):
                report[f"{kind}, {name}"] = oracle.distance(found, wanted, origin)
            for average in AVERAGES:
                seen, plain = predicted[average], logits_with(whole[average], own)
                report[f"{average} seen, {name}"] = float((seen - plain).norm() / plain.norm())
        engine.close()


if __name__ == "__main__":
    main(body)
