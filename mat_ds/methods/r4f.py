"""R4F: R3F with a classification head of Lipschitz constant one (Aghajanyan et al. 2021, section 3.2)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mat_ds.methods.r3f import R3F, R3FSettings


class R4FSettings(R3FSettings):
    spectral_head: ClassVar[bool] = True

    name: Literal["r4f"] = Field("r4f", description="r3f with the head's last matrix divided by its spectral norm")  # type: ignore[assignment]


class R4F(R3F):
    """R3F's update; W / sigma_max(W) stands for the last matrix W of the head in every pass.

    As in the authors' code the dense layer before it is left as it is. sigma_max is exact, where the code iterates.
    """

    Settings = R4FSettings
