"""How long an outer step waits for its batch: order, tokens, padding, packing, and on a GPU the copy to it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import torch

from benchmarks.speed.baseline import Sizes
from benchmarks.speed.shapes import make_model
from benchmarks.speed.step import BATCH, ROUNDS, Product, alone, rows
from benchmarks.speed.timing import Figure, alternate, ratio
from mat_ds.methods.batch import MicroBatch


def measure(model: Path | None, data: Path | None) -> Figure:
    """The time to prepare a batch of 16 sentences divided by that of an outer step of MAT, ZeRO-1, K = 5 / 5; the details have
    that of a vanilla step too."""
    sizes, found = Sizes(), {}
    with alone() as device:
        batches = loader(model, data, device)
        for name, options in {
            "mat": {"delta_steps": sizes.delta_steps, "theta_steps": sizes.theta_steps},
            "vanilla": {},
        }.items():
            run, ready = Product(make_model(model), name=name, **options), batches()
            cases = {"prepare": batches, "step": lambda run=run, ready=ready: run.step(ready.inputs, ready.labels)}
            found[name] = ratio(alternate(cases, ROUNDS), "prepare", "step")
            run.engine.close()
    return Figure(found["mat"].value, {**found["mat"].details, "vanilla": found["vanilla"].details}, found["mat"].refusal)


def loader(model: Path | None, data: Path | None, device: torch.device) -> Callable[[], MicroBatch]:
    """A function that prepares the next batch: of CoLA, or without folders of the demo, with its tiny model's tokenizer."""
    from mat_ds.models.build import build_tokenizer
    from mat_ds.models.options import ModelConfig
    from mat_ds.models.packing import Packing, pack_doubled
    from mat_ds.tasks.example import Example
    from mat_ds.tasks.examples import load_task_data
    from mat_ds.tasks.kinds import kind_of
    from mat_ds.tasks.loader import Collator, TrainLoader
    from mat_ds.tasks.options import DataConfig
    from mat_ds.tasks.registry import TASKS

    if model is not None and data is not None:
        spec, named = TASKS["cola"], ModelConfig(name=str(model))
        examples = [Example((sentence,), label) for sentence, label in rows(data)]
    else:
        spec, named = TASKS["demo"], ModelConfig()
        examples = list(load_task_data(spec, DataConfig(train_limit=1000)).train)
    kind, tokenizer = kind_of(spec), build_tokenizer(named, (text for example in examples for text in example.texts))
    steps, made = count(), TrainLoader(examples, Collator(tokenizer, 128, kind), BATCH, BATCH, DataConfig(), 0, 0, 1, device)

    def following() -> MicroBatch:
        (batch,) = made.micro_batches(next(steps))
        Packing.of(batch.inputs["attention_mask"])
        pack_doubled(batch.inputs, batch.doubled)
        return batch

    return following
