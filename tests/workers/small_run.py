"""A run of a few seconds that has all parts of a run, and its comparison with another."""

import torch
from safetensors.torch import load_file

from mat_ds.storage.events import read_events

STEPS = 8
OPTIONS = (
    "data.train_limit=96", "data.eval_limit=24", "train.batch_size=16", "train.micro_batch_size=4", f"train.max_steps={STEPS}",
    "train.save_every=3", "train.eval_per_epoch=2", "train.resume=auto", "train.telemetry_every=3", "model.dropout=0.1",
    "method.delta_steps=2", "method.theta_steps=2", "train.keep_last=3", "tracking.uri=none", "loss.class_weights=auto",
    "loss.label_smoothing=0.1",
)  # fmt: skip


def steps(run):
    """The logged steps of a run, without speeds."""
    measured, looking_on = (
        {"samples_per_second", "tokens_per_second", "seconds", "bytes", "time"},
        {"start", "checkpoint", "system", "end"},
    )
    records = [record for record in read_events(run / "events.jsonl") if record["event"] not in looking_on]
    return [{k: v for k, v in record.items() if k not in measured} for record in records]


def same(run, whole):
    """Whether two runs have equal weights, bit for bit, and equal logs."""
    found, expected = (load_file(folder / "model" / "model.safetensors") for folder in (run, whole))
    return all(torch.equal(found[k], expected[k]) for k in found | expected) and steps(run) == steps(whole)
