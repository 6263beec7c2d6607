"""Scores the mixture of a run's snapshots on the dev splits at its end, and fits when it abstains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mat_ds.artifacts.members import ABSTENTION, listed, step_of_member
from mat_ds.evaluation.abstention import fitted_steps, right_answers
from mat_ds.evaluation.calibration import judged, quality
from mat_ds.evaluation.mixture import mean_logits
from mat_ds.evaluation.scores import Evaluator, Forward
from mat_ds.ranks.collectives import from_rank_zero, on_rank_zero
from mat_ds.storage.disk import write_json
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tasks.example import Example
from mat_ds.tasks.kinds.base import Kind


def score_mixture(
    kind: Kind,
    rundir: RunDirectory,
    dev: Mapping[str, Sequence[Example]],
    evaluator: Evaluator,
    load: Callable[[Any], Forward],
    still_ours: Callable[[], None],
) -> dict[str, Any]:
    """`mixture` of `results.json`: the steps of its members, and the metrics and the quality of the probabilities of each dev
    split; `{}` if there are no members, or their answers are not probabilities. Writes the thresholds beside the members.

    Every rank must call it. One member is in memory at a time.

    Args:
        load: loads a member in fp32.
        still_ours: as for `finish`.
    """
    members = from_rank_zero(listed(rundir.snapshots))
    if not members or not kind.calibrates or not any(map(len, dev.values())):
        return {}
    kept: dict[str, list[np.ndarray]] = {split: [] for split in dev}
    for name, folder in members.items():
        forward = load(folder)
        for split, examples in dev.items():
            kept[split].append(evaluator.predict(forward, examples, f"{split}, member {name}").kept.numpy())
        del forward

    def judge() -> dict[str, Any]:
        from mat_ds.tasks.metrics import score

        splits, sure, right = {}, [], []
        for split, examples in dev.items():
            logits, confidence = mean_logits(kind, kept[split], examples)
            splits[split] = {**score(kind.spec, logits, examples), **quality(judged(kind, logits, examples))}
            sure.append(confidence)
            right.append(right_answers(kind, logits, examples))
        steps = fitted_steps(np.concatenate(sure), np.concatenate(right))
        still_ours()
        write_json(rundir.snapshots / ABSTENTION, {"fitted_on": list(dev), "examples": sum(map(len, sure)), "steps": steps})
        return {"mixture": {"members": [*map(step_of_member, members)], "splits": splits}}

    return on_rank_zero(judge)
