"""An evaluation under attack and noise, in this process."""

import json

import torch
from torch import distributed

from mat_ds.artifacts.evaluated import Robustness
from mat_ds.commands.evaluate import parse
from mat_ds.evaluation.request import find_subject
from mat_ds.evaluation.robustness import evaluate_subject
from mat_ds.evaluation.subject import load_subject
from mat_ds.ranks.world import World
from mat_ds.terminal.display import Display


def measured(folder, length, noise, out):
    """What `mat-ds evaluate` reports of the validation split of `own.yaml` in a folder, for the model in it.

    Args:
        folder: has `own.yaml`, its files, and `model`.
        length: maximum tokens.
        noise: kind and rate.
        out: a folder to be made.
    """
    kind, rate = noise
    asked = [f"task={folder / 'own.yaml'}", f"data.path={folder}", f"data.max_length={length}", "attack.radii=[0.5]",
             "attack.steps=2", f"noise.rates=[{rate}]", f"noise.kinds=[{kind}]", f"output_dir={out}"]  # fmt: skip
    parsed, options = parse([str(folder / "model"), *asked])
    subject = load_subject(find_subject(parsed.model, options), options)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        report = evaluate_subject(subject, options, World(), torch.device("cpu"), Display(speaks=False))
    finally:
        distributed.destroy_process_group()
    Robustness.model_validate(json.loads(json.dumps(report)))  # which `mat-ds report` reads
    return report["splits"]["validation"]
