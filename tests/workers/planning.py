"""Worker: what ranks hold and send at every stage, next to what a plan predicts without running anything."""

import functools
import itertools
from contextlib import nullcontext

import torch
import torch.distributed
from deepspeed.accelerator import get_accelerator

from mat_ds.engine.zero import read_zero
from mat_ds.methods.batch import MicroBatch
from mat_ds.planning.costs import Costs, PassBytes
from mat_ds.planning.live import Live
from mat_ds.planning.plan import Cards, make_plan
from mat_ds.runs.ds_config import complete
from mat_ds.runs.options import RunConfig
from mat_ds.sampling.average import Average
from tests.support.kinds import CLASSIFICATION
from tests.support.tiny import shallow_lora, shallow_roberta
from tests.workers.worker import BF16, FP32, MAT, STAGES, ds_json, main, make

# Half a million parameters; the shards of several ranks cut the embedding.
SIZE = dict(
    vocab_size=4000,
    hidden_size=80,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=320,
    max_position_embeddings=40,
    attn_implementation="eager",
)
LENGTH, MICRO, ACCUMULATION = 32, 2, 2
SHORT = {**MAT, "delta_steps": 1, "theta_steps": 2}
OFFLOAD = {"offload_optimizer": {"device": "cpu"}}
WIDE = {**BF16, "data_types": {"grad_accum_dtype": "fp32"}}
PRECISIONS = {"fp32": FP32, "bf16": BF16}
CASES = {
    **{f"{name} zero-{s}": (ds_json(s, p), {}) for (name, p), s in itertools.product(PRECISIONS.items(), STAGES)},
    **{f"average: fp32 zero-{s}": (ds_json(s), {"average": True}) for s in (1, 3)},
    **{f"adapters: fp32 zero-{s}": (ds_json(s), {"lora": v}) for s, v in ((0, "lora"), (2, "dora"), (3, "pissa"))},
    "adapters: bf16 zero-3": (ds_json(3, BF16), {"lora": "dora"}),
    **{f"offload: bf16 zero-{s}": (ds_json(s, BF16, **OFFLOAD), {}) for s in (1, 2, 3)},
    "parameters too: fp32 zero-3": (ds_json(3, offload_param={"device": "cpu"}, **OFFLOAD), {}),
    **{f"fp32 gradients: bf16 zero-{s}": (ds_json(s, WIDE), {}) for s in (1, 2, 3)},
    # With a loss scale at which no gradient overflows, so that no update is repeated.
    "half: fp16 zero-0": (ds_json(0, {"fp16": {"enabled": True, "loss_scale": 1.0}}), {}),
    "sgd: fp32 zero-2": (ds_json(2), {"optimizer": {"name": "sgd"}}),
    "rmsprop: bf16 zero-3": (ds_json(3, BF16), {"optimizer": {"name": "rmsprop"}}),
    **{f"{m}: fp32 zero-{s}": (ds_json(s), {"method": {"name": m}}) for m in ("vanilla", "freelb") for s in (2, 3)},
    **{f"smart: fp32 zero-{s}": (ds_json(s), {"method": {"name": "smart"}}) for s in (1, 2)},
    "by layer: fp32 zero-3": (ds_json(3), {"gather": "layer"}),
}

# Bytes that the collectives of this rank have sent.
SENT = []


class Real(Live):
    """Counts real memory, and not the meta tensors in which DeepSpeed records shapes."""

    def _see(self, storage):
        if storage.device.type != "meta":
            super()._see(storage)


def body(world, report):
    get_accelerator().is_fp16_supported = lambda: True
    for name, (tree, more) in CASES.items():
        # Counting every tensor is slow.
        report[name] = compared(world, tree, Real(()) if ":" not in name else None, **more)


def compared(world, tree, live, lora=None, average=False, method=SHORT, optimizer=None, gather="model"):
    """Pairs (planned, measured) of bytes: of each kind of model state on the fullest rank, of the peak if `live` counts
    it, and of what an outer step sends."""

    batches, size = [batch(index) for index in range(ACCUMULATION)], MICRO * ACCUMULATION * world.size
    with live or nullcontext():
        averages = {"average": Average(None)} if average else {}
        engine, player = make(world, tree, method, MICRO, optimizer, model(lora), batch=size, averages=averages, gather=gather)
        # ZeRO-3 learns the order of its passes in the first step.
        for step in range(2 if engine.ds.zero_optimization_stage() == 3 else 1):
            SENT.clear()
            engine.begin(step, 1e-3)
            player.step(engine, batches)
    measured = {"sent": sum(SENT), **({"peak": live.peak} if live else {})}
    engine.backward(engine.forward(batches[0], ("theta",)).float().sum())
    measured |= held(engine)
    engine.close()

    run = RunConfig.model_validate(
        {
            "train": {"batch_size": size, "micro_batch_size": MICRO, "telemetry_every": 0},
            "method": method,
            "optimizer": optimizer or {},
            "model": {"average": "uniform" if average else "none", "gather": gather},
        }
    )
    completed = complete(tree, run, world)
    costs = costs_of(lora, read_zero(completed).dtype)
    plan = make_plan(costs, run, completed, Cards(world.size, 0, None, 1.0), passes=None if live else PassBytes(0, 0))
    rows = {row.name: row.card + row.host for row in plan.rows}
    planned = {
        **{name: rows.get(name, 0) for name in ("weights", "gradients", "masters")},
        "update": rows.get("update on the host", 0),
        "kept": sum(rows.get(name, 0) for name in ("moments", "mixture", "average", "teacher")),
        "peak": plan.card + plan.host - rows["reserve"],
        "sent": plan.traffic.total,
    }
    return {name: [planned[name], most(size)] for name, size in measured.items()}


def model(lora):
    """With adapters of a variant of LoRA, or none."""
    return shallow_lora(variant=lora, **SIZE) if lora else shallow_roberta(**SIZE)


@functools.cache
def costs_of(lora, dtype):
    def build(again):
        with torch.device("meta"):
            return model(lora)

    return Costs(build, dtype, CLASSIFICATION, LENGTH, LENGTH)


def batch(index):
    """Two texts, the second shorter by a token."""
    ids, mask = torch.full((MICRO, LENGTH), 5), torch.ones(MICRO, LENGTH, dtype=torch.long)
    mask[1, -1] = 0
    return MicroBatch({"input_ids": ids, "attention_mask": mask}, torch.zeros(MICRO, dtype=torch.long), index)


def held(engine):
    """Bytes of the existing storages after a backward, by what they hold."""
    ds, optimizer, parameters = engine.ds, engine.ds.optimizer, list(engine.ds.module.parameters())
    weights = storages(p.data for p in parameters) | storages(getattr(p, "ds_tensor", None) for p in parameters)
    masters = storages(engine.shards.slices)
    lists = (getattr(optimizer, name, {}).values() for name in ("all_grad_tensors", "averaged_gradients"))
    gradients = [tensor for tensors in itertools.chain(*lists) for tensor in tensors or ()]
    gradients += [p.grad for p in parameters] + list(getattr(optimizer, "accumulated_grads_in_cpu", {}).values())
    gradients += [
        getattr(optimizer, "grad_partitions_flat_buffer", None),
        *getattr(optimizer, "fp32_groups_gradients_flat", []),
    ]
    update = storages(master.grad for master in engine.shards.slices) if ds.zero_cpu_offload() else {}
    update |= storages(getattr(optimizer, "param_buffer_of_bit16_for_cpu_offload_groups", []))
    return {
        "weights": sum(weights.values()),
        "gradients": sum(storages(gradients).values()),
        "masters": sum(size for at, size in masters.items() if at not in weights),
        "kept": engine.sampler.state_bytes,
        "update": sum(update.values()),
    }


def storages(tensors):
    """Sizes of the storages of tensors, by address."""
    there = [tensor.untyped_storage() for tensor in tensors if tensor is not None and tensor.numel()]
    return {storage.data_ptr(): storage.nbytes() for storage in there}


def watch(name, position, rounds):
    """Replaces a collective of torch by one that records how many bytes this rank would send in a ring.

    Args:
        name: of the collective.
        position: of the argument with the tensor that is as large as those of all ranks together.
        rounds: how often the data go round the ring.
    """
    original = getattr(torch.distributed, name)

    def watched(*arguments, **named):
        ranks, tensor = torch.distributed.get_world_size(), [*arguments, *named.values()][position]
        SENT.append(rounds * tensor.numel() * tensor.element_size() * (ranks - 1) / ranks)
        return original(*arguments, **named)

    setattr(torch.distributed, name, watched)


def most(size):
    """The largest over all ranks."""
    sizes = [torch.zeros(1, dtype=torch.float64) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(sizes, torch.tensor([float(size)], dtype=torch.float64))
    return max(float(each) for each in sizes)


if __name__ == "__main__":
    # Before DeepSpeed takes them.
    watch("all_reduce", 0, 2)
    watch("all_gather_into_tensor", 0, 1)
    watch("reduce_scatter_tensor", 1, 1)
    watch("reduce", 0, 1)
    main(body)
