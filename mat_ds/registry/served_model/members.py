"""The members of a mixture beside a registered model, and what a request asks of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from .mixing import threshold_of
from .rows import refuse

SNAPSHOTS, WEIGHTS = "snapshots", "model.safetensors"


class Members:
    """The members of a mixture, loaded when they are first asked for.

    Args:
        folder: holds a folder for each, with the tensors in which it differs from the model; it may not exist.
        model: of transformers.
        steps: thresholds at which the mixture abstains; None if none were fitted.
    """

    def __init__(self, folder: Path, model: Any, steps: Sequence[Mapping[str, float]] | None):
        self._files, self._model, self._steps = sorted(folder.glob(f"*/{WEIGHTS}")), model, steps
        self._models: list[Any] = []

    @property
    def models(self) -> list[Any]:
        """The members, as models of transformers."""
        if not self._models:
            for file in self._files:
                member = deepcopy(self._model)
                member.load_state_dict(load_file(file), strict=False)
                self._models.append(member.eval())
        return self._models

    def asked(self, params: Mapping[str, Any]) -> tuple[bool, bool, float | None]:
        """Whether a request is for the mixture, whether it wants its uncertainty, and the confidence below which it abstains.

        Args:
            params: `mixture`, `uncertainty`, and `abstain`, the largest share of wrong answers; 0: it always answers.
        """
        uncertain, risk = bool(params.get("uncertainty")), float(params.get("abstain") or 0.0)
        if not (params.get("mixture") or uncertain or risk):
            return False, False, None
        if not self._files:
            raise refuse("this model was registered without snapshots: leave `mixture`, `uncertainty` and `abstain` out")
        if params.get("calibrated"):
            raise refuse("the temperature is that of the model alone: leave `calibrated` or the mixture out")
        if not risk:
            return True, uncertain, None
        if (threshold := threshold_of(self._steps or (), risk)) is None:
            least = min((step["risk"] for step in self._steps or ()), default=1.0)
            raise refuse(f"no threshold promises a risk of {risk:g}; the least that one promises is {least:.3f}")
        return True, uncertain, threshold
