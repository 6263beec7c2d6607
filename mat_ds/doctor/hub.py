"""Checks whether the hub of models and datasets can be reached."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mat_ds.doctor.rows import Row, brief, passed, warned

TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class Hub:
    """State of the hub.

    Attributes:
        endpoint: its address.
        offline: whether the user has switched access off.
        why: why it cannot be reached; empty if it can.
    """

    endpoint: str
    offline: bool = False
    why: str = ""

    @property
    def reached(self) -> bool:
        return not self.offline and not self.why


def ask_hub() -> Hub:
    """Sends one short request to the hub, unless HF_HUB_OFFLINE is set."""
    try:
        from huggingface_hub import constants, get_session
    except Exception as error:
        return Hub("the hub", why=brief(error))
    if constants.HF_HUB_OFFLINE:
        return Hub(constants.ENDPOINT, offline=True)
    try:
        answer = get_session().head(constants.ENDPOINT, timeout=TIMEOUT_SECONDS)
        return Hub(constants.ENDPOINT, why=f"it answers {answer.status_code}" if answer.status_code >= 500 else "")
    except Exception as error:  # HTTP clients, proxies and name resolution each have their own exceptions
        return Hub(constants.ENDPOINT, why=brief(error))


def check_hub(hub: Hub) -> Iterator[Row]:
    """Yields a row about what the state of the hub means for a run."""
    if hub.offline:
        yield passed("hub", "not asked: HF_HUB_OFFLINE is set, and data and models come from folders or the cache")
    elif hub.reached:
        yield passed("hub", f"{hub.endpoint} answers")
    else:
        yield warned(
            "hub",
            f"{hub.endpoint} cannot be reached ({hub.why})",
            "run `mat-ds prepare` on a login node, "
            "pass the folders as model.name= and data.path=, and export HF_HUB_OFFLINE=1 here",
        )
