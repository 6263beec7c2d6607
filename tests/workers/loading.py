"""Worker: a model read from its files straight into ZeRO-3 shards, against one read whole, and the memory of both."""

import itertools
import sys
from pathlib import Path

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from transformers import RobertaConfig, RobertaModel

from mat_ds.engine.export import gather_fp32
from mat_ds.engine.loading import shard_unread
from mat_ds.models.build import build_model
from mat_ds.models.options import ModelConfig
from mat_ds.ranks.collectives import barrier, gather_rows
from mat_ds.tasks.registry import TASKS
from mat_ds.training.preflight import weights_digest
from tests.support.tiny import global_batches
from tests.workers.keyed import NOISY
from tests.workers.worker import BF16, FP16, FP32, ds_json, main, make, steps

OFFLOAD = {"offload_param": {"device": "cpu"}, "offload_optimizer": {"device": "cpu"}}
TREES = {"fp32": (FP32, {}), "bf16": (BF16, {}), "fp16": (FP16, {}), "bf16, offloaded": (BF16, OFFLOAD)}
KINDS = {
    "whole": {},
    "adapters": {"lora": {"r": 4, "modules_to_save": ["layer.1.output"]}},
    "frozen": {"freeze": ["embeddings"]},
}


class Pads:
    """The part of a tokenizer that a model needs."""

    pad_token_id, model_input_names = 1, ["input_ids", "attention_mask"]


def build(folder, leave_unread, options=None):
    model = ModelConfig.model_validate({"name": str(folder), "dropout": 0.1, **(options or {})})
    return build_model(model, TASKS["mnli"], Pads, seed=3, leave_unread=leave_unread)


def body(world, report):
    get_accelerator().is_fp16_supported = lambda: True
    tiny, large = Path(sys.argv[2]) / "tiny", Path(sys.argv[2]) / "large"
    if world.rank == 0:
        torch.manual_seed(0)
        shape = {"max_position_embeddings": 34, "pad_token_id": 1, "initializer_range": 0.1}
        small = {"vocab_size": 64, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40}
        RobertaModel(RobertaConfig(**shape, **small)).save_pretrained(tiny)
        RobertaModel(RobertaConfig(**shape, vocab_size=1000, num_hidden_layers=10)).save_pretrained(large)
    barrier()
    for (name, (precision, zero)), (kind, options) in itertools.product(TREES.items(), KINDS.items()):
        report[f"{kind}, {name}"] = same(world, tiny, ds_json(3, precision, **zero), ds_json(2, precision), options)
    report["memory"] = [[*memory(world, large, True)], [*memory(world, large, False)]]


def same(world, folder, sharded, replicated, options):
    """Whether the parameters are equal bit for bit, at the start (also under ZeRO-2) and after two steps."""
    micro, found = 2, []
    for tree, leave_unread in ((sharded, True), (sharded, False), (replicated, False)):
        built = build(folder, leave_unread, options)
        assert bool(built.unread) == leave_unread
        shard_unread(built.module, built.unread, {"train_batch_size": 8, **tree})
        assert all(hasattr(p, "ds_id") == leave_unread for p in built.module.parameters())
        engine, player = make(world, tree, NOISY, micro, model=built.module)
        found += [gather_fp32(engine), steps(world, engine, player, micro, global_batches(2))]
        engine.close()
    start, end, *others = found
    equal = [
        start.keys() == end.keys() == other.keys() and all(torch.equal(mine[n], other[n]) for n in mine)
        for mine, other in zip((start, end, start), others[:3], strict=True)
    ]
    moved = world.rank == 0 and not all(torch.equal(start[n], end[n]) for n in start)
    return [*equal, moved]


def memory(world, folder, leave_unread):
    """Bytes by which each rank's peak grew while it loaded a model, and the bytes of the model."""
    before, size = resident("VmRSS"), sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    Path("/proc/self/clear_refs").write_text("5")
    built, config = build(folder, leave_unread), {"train_batch_size": 8, **ds_json(3)}
    weights_digest(built)  # this reads all weights
    shard_unread(built.module, built.unread, config)
    if not leave_unread:  # as deepspeed.initialize does
        deepspeed.zero.Init(module=built.module, config_dict_or_path=config)
    grown = torch.tensor([float(resident("VmHWM") - before)])
    return [size, *gather_rows(grown).tolist()]


def resident(line):
    """Bytes of this process in memory, now (VmRSS) or at most (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(entry.split()[1] for entry in status.splitlines() if entry.startswith(line)))


if __name__ == "__main__":
    main(body)
