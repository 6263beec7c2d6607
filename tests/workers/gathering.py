"""What ZeRO-3 gathers a layer at a time and as a whole model: the same numbers, and how many bytes. Part of `wrong_probe`."""

from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch.distributed import ProcessGroup

from mat_ds.engine import gathering
from mat_ds.engine.export import gather_fp32
from tests.support.tiny import global_batches, micro_batches, shallow_lora, shallow_roberta
from tests.workers.worker import BF16, FP16, MAT, ds_json, make

# Nothing stays whole after a pass, as in a large model.
DIVIDED = {"stage3_param_persistence_threshold": 0}
OFFLOAD = {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
DROPPED = {**MAT, "dropout": "independent"}


CASES = {
    "mat": (DIVIDED, {}, DROPPED, lambda: shallow_roberta(dropout=0.2)),
    "mat bf16, offload": ({**DIVIDED, **OFFLOAD}, BF16, MAT, shallow_roberta),
    "mat fp16, vectors whole": ({"stage3_param_persistence_threshold": 40}, FP16, MAT, shallow_roberta),
    "mat, adapters, recomputed": (DIVIDED, {}, MAT, lambda: shallow_lora(checkpointing=True)),
    "smart": (DIVIDED, {}, {"name": "smart"}, shallow_roberta),
    "freelb": (DIVIDED, {}, {"name": "freelb"}, shallow_roberta),
}

# In torch 2.13, and before.
NAME = next(name for name in ("all_gather_single", "_allgather_base") if hasattr(ProcessGroup, name))


@contextmanager
def gathered():
    """A context that adds up the bytes of what is gathered, in its list."""
    sizes = []
    original = getattr(ProcessGroup, NAME)

    def watched(group, output, *arguments):
        sizes.append(output.nbytes)
        return original(group, output, *arguments)

    with patch.object(ProcessGroup, NAME, watched):
        yield sizes


def trained(world, tree, method, model, gather):
    """Two outer steps with predictions between them: what they came to, and the bytes gathered in each part of the second, in
    those of all parameters."""
    engine, player = make(world, tree, method, 2, model=model(), gather=gather)
    found, shares = [], []
    whole = sum(parameter.nbytes for parameter in model().to(engine.dtype).parameters())
    for step, batch in enumerate(global_batches(2)):
        own = micro_batches(batch, 2, world.rank, world.size)
        engine.begin(step, 1e-3)
        engine.shards.refresh()  # divides all parameters
        with gathered() as in_loop:
            found += [player.adversary(engine, one) for one in own] if player.perturbs() else []
        with gathered() as in_step:
            engine.end(player.step(engine, own))
        with gathered() as in_predictions:
            found += [engine.predict(one.inputs) for one in own]
        shares = [sum(sizes) / whole for sizes in (in_loop, in_step, in_predictions)]
        found += gather_fp32(engine).values()
    kept = engine.gathers, shares
    engine.close()
    return found, kept


def compared(world, report):
    for name, (zero, precision, method, model) in CASES.items():
        case = ds_json(3, precision, **zero), method, model
        (one, of_layer), (other, of_model) = (trained(world, *case, gather) for gather in ("layer", "model"))
        same = len(one) == len(other) and all(map(torch.equal, one, other))
        report[f"gathered: {name}"] = {"same": same, "layer": of_layer, "model": of_model}
    report["gathered"] = {"chosen": chosen(world), "freed": freed(world)}


def chosen(world):
    """What `auto` chooses where there is room on every rank, and where there is none on one; and below ZeRO-3."""
    found, free = [], gathering._free
    for room in (10**12, 10**12 * (1 - world.rank)):
        gathering._free = lambda room=room: room
        for stage in (3,) if found else (2, 3):
            engine, _ = make(world, ds_json(stage))
            found.append(engine.gathers)
            engine.close()
    gathering._free = free
    return found


def freed(world):
    """Whether nothing is whole after an error in the loop, after a training pass, and where the parameters change."""
    engine, _ = make(world, ds_json(3, **DIVIDED), gather="model")
    (batch, *_) = micro_batches(global_batches(1)[0], 2, world.rank, world.size)
    delta = torch.zeros(*batch.inputs["input_ids"].shape, 24)

    def whole():
        return [parameter.numel() > 0 for parameter in engine.ds.module.parameters()]

    found = []
    engine.begin(0, 1e-3)
    try:
        engine.delta_gradient(batch, None, delta, lambda output: 1 / 0)
    except ZeroDivisionError:
        found.append(not any(whole()))
    gradient = engine.delta_gradient(batch, None, delta, lambda output: output.square().sum(1))
    found.append(all(whole()) and bool(gradient.any()))
    engine.backward(engine.forward(batch, None).sum())
    found.append(not any(whole()))
    engine.probe(batch, None)
    engine.update()
    found.append(not any(whole()))
    engine.probe(batch, None)
    engine.shards.refresh()
    found.append(not any(whole()))
    for k in engine.inner_steps():
        found.append(not any(whole()) and k == 0)
        break
    engine.close()
    return found
