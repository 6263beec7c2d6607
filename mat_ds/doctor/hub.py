"""Whether the model and dataset hub can be reached from here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mat_ds.doctor.rows import Row, brief, passed, warned

TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class Hub:
    """What there is of a hub: `offline` by choice, `reached` or not; `why` it is not."""

    endpoint: str
    offline: bool = False
    why: str = ""

    @property
    def reached(self) -> bool:
        return not self.offline and not self.why


def ask_hub() -> Hub:
    """Makes one short request, unless HF_HUB_OFFLINE forbids it."""
    try:
        from huggingface_hub import constants, get_session
    except Exception as error:
        return Hub("the hub", why=brief(error))
    if constants.HF_HUB_OFFLINE:
        return Hub(constants.ENDPOINT, offline=True)
    try:
        answer = get_session().head(constants.ENDPOINT, timeout=TIMEOUT_SECONDS)
        return Hub(constants.ENDPOINT, why=f"it answers {answer.status_code}" if answer.status_code >= 500 else "")
    except Exception as error:  # each client library, proxy and resolver has classes of its own
        return Hub(constants.ENDPOINT, why=brief(error))


def check_hub(hub: Hub) -> Iterator[Row]:
    """What the answer, or its absence, means for a run."""
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
