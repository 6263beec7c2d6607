"""fp16's dynamic loss scale, wherever DeepSpeed stores it, and what it depends on: whether gradients overflow."""

from __future__ import annotations

from typing import Any

from deepspeed.runtime.engine import DeepSpeedEngine

# The fields that change during training.
STATE = {"cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis"}


def _keepers(ds: DeepSpeedEngine) -> list[Any]:
    """The objects that hold the loss scale: the optimizer at ZeRO-0, its loss scaler at other stages."""
    keepers = [ds.optimizer, getattr(ds.optimizer, "loss_scaler", None)] if ds.fp16_enabled() else []
    return [keeper for keeper in keepers if keeper is not None]


def judge_by_norm(ds: DeepSpeedEngine) -> None:
    """In half precision, DeepSpeed's ZeRO-1 and 2 look for overflows in the gradients, wait for the device, and then do both
    again in computing their norm. From here on they do it in the norm alone."""
    if hasattr(ds.optimizer, "scaled_global_norm") and hasattr(ds.optimizer, "check_overflow"):
        ds.optimizer.check_overflow = lambda partition_gradients=True: None


def read_loss_scale(ds: DeepSpeedEngine) -> dict[str, float]:
    """The loss scale and its counters; empty without fp16."""
    return {name: value for keeper in _keepers(ds) for name, value in vars(keeper).items() if name in STATE}


def restore_loss_scale(ds: DeepSpeedEngine, state: dict[str, float]) -> None:
    """Restores what `read_loss_scale` returned, also from another ZeRO stage."""
    for keeper in _keepers(ds):
        vars(keeper).update({name: value for name, value in state.items() if name in vars(keeper)})
