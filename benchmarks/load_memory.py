"""Peak memory of loading a model: of each of two ranks at ZeRO-3, of one rank, and at ZeRO-2.

    python benchmarks/load_memory.py [hidden size] [layers]

makes a RoBERTa of that shape (default 768 and 16, 158 M parameters) in a temporary folder and loads it as a run does, in
new processes for each case. On a CPU everything is in the ranks' resident memory: VmHWM and VmRSS of /proc/self/status.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tests.support.launch import run_ranks

MEGABYTE = 1 << 20


def resident(line: str) -> int:
    """Bytes of this process in memory, now (VmRSS) or at most so far (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(entry.split()[1] for entry in status.splitlines() if entry.startswith(line)))


def load(report: Path, folder: str, stage: str) -> None:
    """Checks, loads and shards the model on one rank, as a run does; rank 0 reports the growth of each rank's memory."""
    import deepspeed  # noqa: F401  (imported before anything is measured)
    import torch

    from mat_ds.engine.engine import Engine
    from mat_ds.engine.group import process_group
    from mat_ds.engine.loading import shard_unread
    from mat_ds.planning.choice import choose_micro_batch
    from mat_ds.ranks.collectives import gather_rows
    from mat_ds.ranks.world import World
    from mat_ds.sampling.chain import Chain
    from mat_ds.sampling.options import OptimizerConfig
    from mat_ds.training.preflight import load_setup
    from mat_ds.training.request import read_request

    world, options = World.from_environment(), ("--ds_config", f"ds_configs/zero{stage}.json", "data.train_limit=64")
    load_setup(read_request(options, world), world, choose_micro_batch)  # imports and data, which are not counted
    start = resident("VmRSS")
    setup = load_setup(read_request([*options, f"model.name={folder}"], world), world, choose_micro_batch)
    grown = [resident("VmHWM") - start]
    with process_group(world):
        built = setup.model.take()
        shard_unread(built.module, built.unread, setup.options.ds_config)
        grown += [resident("VmHWM") - start, resident("VmRSS") - start]
        engine = Engine(built.module, OptimizerConfig(name="sgd"), Chain(), setup.options.ds_config, 0)
        grown += [resident("VmHWM") - start]
        ranks = gather_rows(torch.tensor([grown], dtype=torch.float64)).tolist()
        engine.close()
    if world.rank == 0:
        report.write_text(json.dumps(ranks))


def compare(hidden: int, layers: int) -> None:
    """Runs all cases and prints a table."""
    from transformers import RobertaConfig, RobertaModel

    from mat_ds.models.build import build_tokenizer
    from mat_ds.models.options import ModelConfig
    from mat_ds.tasks.demo import rows

    with tempfile.TemporaryDirectory() as folder:
        shape = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": layers}
        model = RobertaModel(RobertaConfig(**shape, num_attention_heads=hidden // 64, pad_token_id=1))
        model.save_pretrained(folder)
        build_tokenizer(ModelConfig(), [row["sentence"] for row in rows("train")]).save_pretrained(folder)
        size = sum(p.numel() for p in model.parameters())
        del model
        print(f"{size / 1e6:.0f} M parameters, {4 * size / MEGABYTE:.0f} MiB in fp32. MiB by which a rank's memory grew:\n")
        print("| ZeRO | ranks | rank | peak, checked | peak, loaded | loaded | peak, with DeepSpeed's buffers |")
        print("|---|---|---|---|---|---|---|")
        for stage, ranks in ((2, 1), (2, 2), (3, 1), (3, 2)):
            for rank, grown in enumerate(run_ranks("benchmarks.load_memory", ranks, folder, str(stage))):
                print(f"| {stage} | {ranks} | {rank} | " + " | ".join(f"{value / MEGABYTE:.0f}" for value in grown) + " |")


if __name__ == "__main__":
    if len(sys.argv) == 4:  # started by run_ranks
        load(Path(sys.argv[1]), *sys.argv[2:])
    else:
        compare(*(int(given) for given in (sys.argv[1:] or ("768", "16"))))
