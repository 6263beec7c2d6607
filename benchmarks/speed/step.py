"""An outer step of MAT on DeepSpeed's ZeRO-1, against the authors' loop: same model, same rows, same K."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.speed.baseline import Baseline, Sizes
from benchmarks.speed.shapes import make_model
from benchmarks.speed.timing import Figure, alternate, ratio
from mat_ds.methods.batch import MicroBatch
from mat_ds.ranks.world import World

BATCH, BATCHES, ROUNDS = 16, 7, 7
# Tokens of CoLA's training sentences with special tokens, every fourth percentile: the default lengths without a folder.
LENGTHS = (6, 7, 7, 8, 8, 8, 8, 9, 9, 9, 9, 10, 10, 10, 11, 11, 11, 12, 12, 13, 13, 14, 15, 17, 21)
ALONE = World()
JSON = Path(__file__).parents[2] / "ds_configs"

Batch = tuple[dict[str, Tensor], Tensor]


def rows(data: Path) -> list[tuple[str, int]]:
    """The first sentences of CoLA with their labels."""
    with (data / "cola" / "train.jsonl").open(encoding="utf-8") as file:
        found = [json.loads(next(file)) for _ in range(BATCH * BATCHES)]
    return [(row["sentence"], row["label"]) for row in found]


def batches(model: Path | None, data: Path | None) -> list[Batch]:
    """Batches, each padded to its longest sentence."""
    from transformers import AutoTokenizer

    drawn = torch.Generator().manual_seed(0)
    if model is not None and data is not None:
        tokenizer, sentences = AutoTokenizer.from_pretrained(model), rows(data)
        ids = [tokenizer(sentence, truncation=True, max_length=128)["input_ids"] for sentence, _ in sentences]
        labels = [label for _, label in sentences]
    else:
        turns = torch.randint(len(LENGTHS), (BATCH * BATCHES,), generator=drawn).tolist()
        ids = [torch.randint(1000, 30000, (LENGTHS[turn],), generator=drawn).tolist() for turn in turns]
        labels = [turn % 2 for turn in turns]
    found = []
    for first in range(0, len(ids), BATCH):
        here = [torch.tensor(one) for one in ids[first : first + BATCH]]
        padded = nn.utils.rnn.pad_sequence(here, batch_first=True)
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(one) for one in here], batch_first=True)
        found.append(({"input_ids": padded, "attention_mask": mask}, torch.tensor(labels[first : first + BATCH])))
    return found


class Product:
    """Engine and method, built as in a run but without files.

    Args:
        model: the classifier.
        accumulation: micro-batches of a rank's share of a global batch.
        world: this rank.
        stage: of ZeRO.
        unpadded: whether its encoder computes real tokens only, as in a run.
        batch: examples of a global batch.
        half: bf16 or fp16; None: fp32.
        gather: as `model.gather`.
        capture: how passes that train nothing are captured to be replayed; None: they are made.
        token_step: see `Packing.of`.
        method: options of MAT, or another method's `name` and options.
    """

    def __init__(
        self,
        model: nn.Module,
        accumulation: int = 1,
        world: World = ALONE,
        stage: int = 1,
        unpadded: bool = True,
        batch: int = BATCH,
        half: str | None = None,
        gather: Any = "auto",
        capture: Any = None,
        token_step: int = 0,
        **method: Any,
    ):
        from mat_ds.engine.engine import Engine
        from mat_ds.methods import METHODS
        from mat_ds.models.unpadded import remove_padding
        from mat_ds.runs.ds_config import complete, read_ds_config
        from mat_ds.runs.options import RunConfig
        from mat_ds.tasks.kinds import kind_of
        from mat_ds.tasks.registry import TASKS

        if unpadded:
            remove_padding(model, token_step)
        self._batch, self._micro, self._done, self._world = batch, batch // (accumulation * world.size), 0, world
        train = {"batch_size": batch, "micro_batch_size": self._micro}
        run = RunConfig.model_validate({"train": train, "optimizer": {"lr": Sizes.lr}, "method": {"name": "mat", **method}})
        self.player: Any = METHODS[run.method.name](run.method, kind_of(TASKS["cola"]))
        tree = {**read_ds_config(JSON / f"zero{stage}.json"), **({half: {"enabled": True}} if half else {})}
        config = complete(tree, run, world)
        self.engine = Engine(model, run.optimizer, self.player.chain, config, seed=0, gather=gather, capture=capture)

    def micro_batches(self, inputs: dict[str, Tensor], labels: Tensor) -> list[MicroBatch]:
        """This rank's micro-batches of a global batch."""
        share = self._batch // self._micro // self._world.size
        own = range(self._world.rank * share, (self._world.rank + 1) * share)
        cuts = {index: slice(index * self._micro, (index + 1) * self._micro) for index in own}
        return [MicroBatch({n: v[cut] for n, v in inputs.items()}, labels[cut], index) for index, cut in cuts.items()]

    def step(self, inputs: dict[str, Tensor], labels: Tensor) -> None:
        """One outer step, from `begin` to `end`."""
        self.engine.begin(self._done, Sizes.lr)
        measured = self.player.step(self.engine, self.micro_batches(inputs, labels))
        self.engine.end(measured)
        self._done += 1


@contextmanager
def alone() -> Iterator[torch.device]:
    """A process group with this process only; within another such block, that block's."""
    from deepspeed.accelerator import get_accelerator

    from mat_ds.engine.group import process_group

    if dist.is_initialized():
        yield torch.device(get_accelerator().current_device_name())
        return
    with process_group(World()) as device:
        yield device


def measure(model: Path | None, data: Path | None, unpadded: bool) -> Figure:
    """The time of the authors' outer step, over padded sentences, divided by ours."""
    sizes = Sizes()
    found = batches(model, data)
    with alone() as device:
        moved = [({name: value.to(device) for name, value in inputs.items()}, labels.to(device)) for inputs, labels in found]
        settings = {"delta_steps": sizes.delta_steps, "theta_steps": sizes.theta_steps, "semantics": "released"}
        ours = Product(make_model(model), unpadded=unpadded, **settings)
        theirs = Baseline(make_model(model).to(device), sizes)
        turns = {"ours": cycle(moved), "theirs": cycle(moved)}
        cases = {"theirs": lambda: theirs.step(*next(turns["theirs"])), "ours": lambda: ours.step(*next(turns["ours"]))}
        result = ratio(alternate(cases, ROUNDS), "theirs", "ours")
        ours.engine.close()
    result.details["padded_tokens"] = sum(labels.numel() * inputs["input_ids"].shape[1] for inputs, labels in found)
    result.details["real_tokens"] = int(sum(inputs["attention_mask"].sum() for inputs, _ in found))
    return result
