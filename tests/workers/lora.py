"""Worker: MAT on a model with adapters at every ZeRO stage and precision, against the oracle and its own checkpoints."""

import functools
import sys
from pathlib import Path

import torch
from deepspeed.accelerator import get_accelerator
from safetensors.torch import load_file

from mat_ds.engine import checkpoint
from mat_ds.ranks.collectives import all_reduce_sum
from mat_ds.storage.checkpoints import checkpoints_of
from tests.equivalence import oracle
from tests.support.drawn import DrawnNoise
from tests.support.expected import HALF_VARIANTS, PRECISIONS, STAGES, VARIANTS, few
from tests.support.tiny import global_batches, shallow_lora
from tests.workers.keyed import NOISY
from tests.workers.worker import FP32, LR, MAT, ORACLE_OPTIONS, PRECISION, ds_json, main, make, steps

BATCHES = global_batches()
DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NOISE = {"delta_noise": 1e-1, "theta_noise": 1e-2}
# Options of MAT, of the optimizer and of the model; the oracle gets those that it knows.
CASES = {
    "adam": {},
    "sgd": {"optimizer": {"name": "sgd", "lr": LR["sgd"]}},
    "clipped": {"optimizer": {"max_grad_norm": 0.05}},
    "noise": {"method": NOISE},
    "uneven": {"method": NOISE, "optimizer": {"layer_decay": 0.5, "head_lr": 3e-3}},
    "checkpointed": {"model": {"checkpointing": True}},
    **{variant: {"model": {"variant": variant}} for variant in VARIANTS},
    "checkpointed dora": {"model": {"variant": "dora", "checkpointing": True, "adapter_dropout": 1e-9}},
}


def parted(stage, precision=FP32):
    """DeepSpeed's JSON under which, as in a large model, ZeRO-3 keeps no weight whole between the passes."""
    return ds_json(stage, precision, **({"stage3_param_persistence_threshold": 0} if stage == 3 else {}))


def body(world, report):
    get_accelerator().is_fp16_supported = lambda: True
    halved = few(("adam", "checkpointed"), PRECISIONS, STAGES)
    for case, name, stage in (
        *halved,
        *few(("sgd", "clipped", "noise", "uneven", *VARIANTS), ("fp32",), STAGES),
        *HALF_VARIANTS,
    ):
        report[f"{case}, {name}, zero-{stage}"] = measured(world, stage, PRECISION[name], DTYPE[name], **CASES[case])
    for variant in ("lora", *VARIANTS):
        report[f"trained, {variant}"] = sum(p.numel() for p in shallow_lora(variant=variant).parameters() if p.requires_grad)
    for name, stage in few(PRECISIONS, STAGES):
        report[f"resumed, {name}, zero-{stage}"] = resumed(
            world, ds_json(stage, PRECISION[name]), Path(sys.argv[2]) / f"{name}-{stage}"
        )
    for variant in VARIANTS:
        for stage in (2, 3):
            report[f"resumed, {variant}, zero-{stage}"] = resumed(
                world, parted(stage), Path(sys.argv[2]) / f"{variant}-{stage}", variant
            )


def measured(world, stage, precision, dtype, method=None, optimizer=None, model=None):
    """After two steps: distance from the oracle, changes of frozen parameters, and what the first step moved."""
    micro, optimizer = 4 // world.size, optimizer or {}
    lr, wanted = optimizer.get("lr", LR["adam"]), {**MAT, **(method or {})}
    tree = (parted if "variant" in (model or {}) else ds_json)(stage, precision)
    engine, player = make(world, tree, wanted, micro, optimizer, shallow_lora(**(model or {})))
    first = steps(world, engine, player, micro, BATCHES[:1], lr=lr)
    result = steps(world, engine, player, micro, BATCHES[1:], first=1, lr=lr)
    sampled = torch.tensor(float(sum(piece.numel for slices in engine.shards.slices.values() for piece in slices)))
    sampled = all_reduce_sum(sampled).item() / (1 if stage else world.size)
    engine.close()
    if world.rank:
        return {}
    before = dict(shallow_lora(**(model or {})).named_parameters())
    own = tuple((key, value) for key, value in optimizer.items() if key not in ("name", "lr"))
    variant = (model or {}).get("variant", "lora")
    expected = whole_run(lr, optimizer.get("name", "adam"), own, bool(method), variant)
    frozen = [n for n, p in before.items() if not p.requires_grad]
    return {
        "sampled": sampled,
        "distance": oracle.distance(result, expected, before),
        "thawed": [n for n in frozen if not torch.equal(result[n], before[n].to(dtype).float())],
        "unmoved": [n for n, p in before.items() if "lora_B" in n and torch.equal(first[n], p)],
        "parts": [len(frozen), len(expected), len(before)],
    }


@functools.cache
def whole_run(lr, update, own, noise, variant):
    """The oracle's run with further options of the optimizer, as pairs."""
    settings = oracle.Settings(update=update, lr=lr, **dict(own), **{k: MAT[k] for k in ORACLE_OPTIONS})
    drawn = DrawnNoise(shallow_lora(variant=variant), {**MAT, **(NOISE if noise else {})}, BATCHES, lr)
    return oracle.run(shallow_lora(variant=variant), BATCHES, settings, noise=drawn)


def resumed(world, tree, folder, variant="lora"):
    """Whether an interrupted run ends bit for bit like an uninterrupted one, and saved no frozen weight."""
    micro, batches = 8 // world.size // 2, global_batches(2)

    def fresh():
        return make(world, tree, NOISY, micro, model=shallow_lora(dropout=0.1, adapter_dropout=0.1, variant=variant))

    engine, player = fresh()
    steps(world, engine, player, micro, batches[:1])
    if world.rank == 0:
        folder.mkdir()
    checkpoint.save(engine, folder, {"step": 1}, keep_last=1)
    expected = steps(world, engine, player, micro, batches[1:], first=1)
    engine.close()
    engine, player = fresh()
    checkpoint.load_checkpoint(engine, checkpoints_of(folder))
    result = steps(world, engine, player, micro, batches[1:], first=1)
    engine.close()
    saved = {key.split(":")[1] for path in folder.glob("step-*/rank-*.safetensors") for key in load_file(path)}
    trained = {name for name, p in shallow_lora(variant=variant).named_parameters() if p.requires_grad}
    return (world.rank > 0 or saved == trained) and all(torch.equal(result[name], expected[name]) for name in expected)


if __name__ == "__main__":
    main(body)
