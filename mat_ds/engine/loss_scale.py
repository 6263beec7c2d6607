"""The dynamic loss scale of fp16, wherever DeepSpeed keeps it."""

from __future__ import annotations

from typing import Any

from deepspeed.runtime.engine import DeepSpeedEngine

# What a step changes.
STATE = {"cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis"}


def _keepers(ds: DeepSpeedEngine) -> list[Any]:
    """Who holds it: DeepSpeed's optimizer itself at ZeRO-0, its loss scaler at the other stages."""
    keepers = [ds.optimizer, getattr(ds.optimizer, "loss_scaler", None)] if ds.fp16_enabled() else []
    return [keeper for keeper in keepers if keeper is not None]


def read_loss_scale(ds: DeepSpeedEngine) -> dict[str, float]:
    """The scale and its counters; empty where the precision has none."""
    return {name: value for keeper in _keepers(ds) for name, value in vars(keeper).items() if name in STATE}


def restore_loss_scale(ds: DeepSpeedEngine, state: dict[str, float]) -> None:
    """Puts back what `read_loss_scale` returned, of this engine or of one of another ZeRO stage."""
    for keeper in _keepers(ds):
        vars(keeper).update({name: value for name, value in state.items() if name in vars(keeper)})
