"""Certifies examples of a split on all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mat_ds.evaluation.attacks.embedding_measured import Perturbable, keys_of_texts
from mat_ds.evaluation.attacks.measured import attacked_rows
from mat_ds.evaluation.scores import Evaluator
from mat_ds.evaluation.smoothing import Certified, certificate, certificate_lines, certified_curve, votes
from mat_ds.evaluation.smoothing_options import SmoothingOptions
from mat_ds.methods.batch import MicroBatch
from mat_ds.ranks.collectives import from_all_ranks
from mat_ds.tasks.example import Example
from mat_ds.tasks.loader import Collator


def certify_split(
    options: SmoothingOptions, model: Perturbable, collate: Collator, evaluator: Evaluator, examples: Sequence[Example],
    split: str, seed: int, at_a_time: int,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:  # fmt: skip
    """Certifies a split. Every rank must call it.

    Args:
        at_a_time: draws of one pass. Each example is passed alone, and each draw has a key: neither batching nor ranks matter.

    Returns:
        What the report says, and a line for each certified example.
    """
    rows = attacked_rows(examples, options.limit, (seed, "smoothing", split))

    def certified(row: int) -> tuple[Certified, int]:
        example = examples[row]

        def counted(what: str, draws: int) -> Tensor:
            parts = []
            for first in range(0, draws, at_a_time):
                here = range(first, min(first + at_a_time, draws))
                batch = MicroBatch(*collate([example] * len(here), evaluator.device), 0)
                texts = batch.texts // len(here)
                keys = [list(keys_of_texts((seed, "smoothing", split, what, draw), [row], texts)) for draw in here]
                parts.append(votes(model.on(batch), batch, keys, model.perturbation.width, float(options.sigma or 0)))
            return sum(parts[1:], parts[0])

        one = certificate(counted("select", options.select), counted("certify", options.samples), options)
        return one, int(example.label)  # type: ignore[arg-type]

    own = {row: certified(row) for row in evaluator.own(f"{split}, smoothing", rows)}
    found = {row: one for part in from_all_ranks(own) for row, one in part.items()}
    if found.keys() != set(rows):
        raise RuntimeError(f"{len(found)} certificates of {len(rows)} examples")
    ordered = [found[row] for row in rows]
    return certified_curve(ordered, options), list(certificate_lines(rows, ordered))
