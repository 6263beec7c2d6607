"""What `model.compile` can capture of a run, as far as its options tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mat_ds.errors import Problem
from mat_ds.methods import METHODS
from mat_ds.methods.base import Method
from mat_ds.runs.options import RunConfig


def capture_problems(tree: Mapping[str, Any], run: RunConfig) -> Iterator[Problem]:
    """Yields a problem if there is nothing to capture, or what would be captured changes from pass to pass.

    Args:
        tree: DeepSpeed's JSON, as written.
        run: the options.
    """
    asked, name, method = run.model.compile, run.method.name, METHODS[run.method.name]
    if asked == "off":
        return
    if not run.method.separate_passes:
        reason = f"{name} as asked for has no passes but those that train, which are not captured"
        yield Problem("model.compile", asked, reason, "leave it out")
    elif method.prepare_model is not Method.prepare_model:
        reason = f"{name} changes the model (prepare_model), and what that does in Python would not be done in a replay"
        yield Problem("model.compile", asked, reason, "leave it out")
    if run.model.gradient_checkpointing:
        reason = "passes that compute layers again (model.gradient_checkpointing) are not captured"
        yield Problem("model.compile", asked, reason, "leave one of the two out")
    if tree.get("zero_optimization", {}).get("stage") == 3:
        reason = "ZeRO-3 gathers weights for each pass anywhere in memory, and a graph reads them where they were"
        yield Problem("model.compile", asked, reason, "take --ds_config zero1 or zero2, or leave it out")
