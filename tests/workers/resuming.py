"""Worker: at every stage and precision, a run continued from a checkpoint against one that was not interrupted."""

import sys
from pathlib import Path

import torch
from deepspeed.accelerator import get_accelerator

from mat_ds.engine import checkpoint
from mat_ds.engine.export import gather_fp32
from mat_ds.models.freeze import freeze
from mat_ds.models.options import ModelConfig
from mat_ds.ranks.collectives import barrier
from mat_ds.storage.checkpoints import checkpoints_of
from tests.support.tiny import global_batches, shallow_roberta
from tests.workers.averaging import AVERAGES
from tests.workers.keyed import NOISY
from tests.workers.worker import BF16, FP16, FP32, STAGES, ds_json, main, make, steps

# The embeddings frozen, and step sizes by layer.
UNEVEN = [(FP32, 1), (FP32, 2), (FP32, 3), (BF16, 2), (FP16, 3)]
OFFLOAD = {"offload_optimizer": {"device": "cpu"}}


def pruned(engine, folder, world):
    """Whether old checkpoints are deleted, the latest is kept, and a run continued from an old one keeps the later ones."""
    left = []
    if world.rank == 0:
        folder.mkdir()
    for step in (1, 2, 3, 2):
        checkpoint.save(engine, folder, {"step": step}, keep_last=2)
        left.append(sorted(int(path.name[-1]) for path in folder.glob("step-*")))
        barrier()
    return left == [[1], [1, 2], [2, 3], [2, 3]] and checkpoints_of(folder)[0].name == "step-00000002"


def name_of(precision):
    return next(iter(precision), "fp32")


def gather(engine, average):
    with engine.averaged_weights(average):
        return gather_fp32(engine)


def body(world, report):
    get_accelerator().is_fp16_supported = lambda: True
    folder, batches = Path(sys.argv[2]), global_batches(2)
    origin = dict(shallow_roberta().named_parameters())
    cases = {
        f"{name} zero-{stage}": ds_json(stage, precision)
        for stage in STAGES
        for name, precision in (("fp32", FP32), ("bf16", BF16), ("fp16", FP16))
    }
    cases |= {f"offload zero-{stage}": ds_json(stage, **OFFLOAD) for stage in (2, 3)}
    cases |= {f"uneven {name_of(precision)} zero-{stage}": ds_json(stage, precision) for precision, stage in UNEVEN}
    for name, tree in cases.items():
        micro, uneven = 8 // world.size // 2, name.startswith("uneven")

        def fresh(tree=tree, micro=micro, uneven=uneven):
            model, rates = shallow_roberta(dropout=0.1), {"layer_decay": 0.5, "head_lr": 3e-3} if uneven else {}
            freeze(model, ModelConfig(freeze=["embeddings"] if uneven else []), ())
            return make(world, tree, NOISY, micro, rates, model, averages=AVERAGES)

        engine, player = fresh()
        steps(world, engine, player, micro, batches[:1])
        where = folder / name.replace(" ", "-")
        if world.rank == 0:
            where.mkdir()
        checkpoint.save(engine, where, {"step": 1, "note": name}, keep_last=1)
        expected = steps(world, engine, player, micro, batches[1:], first=1)
        expected_averages = [gather(engine, average) for average in AVERAGES]
        if world.rank == 0:
            torch.save((expected, expected_averages), where / "expected.pt")
        moments = engine.sampler.state_bytes
        if name == "fp32 zero-0":
            report["pruning"] = pruned(engine, folder / "pruning", world)
        engine.close()

        engine, player = fresh()
        state, passed_over = checkpoint.load_checkpoint(engine, checkpoints_of(where))
        result = steps(world, engine, player, micro, batches[1:], first=1)
        averages = [gather(engine, average) for average in AVERAGES]
        same = all(torch.equal(result[key], expected[key]) for key in expected)
        same &= all(torch.equal(a[key], b[key]) for a, b in zip(averages, expected_averages, strict=True) for key in a)
        frozen = {key for key in result if uneven and "embeddings" in key}
        same &= all(torch.equal(result[key], origin[key]) for key in frozen) and bool(frozen) == (uneven and world.rank == 0)
        report[name] = same and state == {"step": 1, "note": name} and not passed_over and engine.sampler.state_bytes == moments
        engine.close()


if __name__ == "__main__":
    main(body)
