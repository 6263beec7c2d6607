"""Asks the hub of models and datasets once whether it answers. Libraries would ask it again and again, for minutes."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from mat_ds.terminal.display import show
from mat_ds.terminal.waiting import waiting

# Seconds within which it has to answer.
SECONDS = 5.0


@dataclass(frozen=True)
class Hub:
    """State of the hub.

    Attributes:
        endpoint: its address.
        offline: whether the user has switched access off (HF_HUB_OFFLINE).
        why: why it cannot be used; empty if it can.
        answers: whether anything was heard of it, even an error.
    """

    endpoint: str
    offline: bool = False
    why: str = ""
    answers: bool = True

    @property
    def reached(self) -> bool:
        return not self.offline and not self.why


def ask_hub() -> Hub:
    """Sends one short request to the hub, unless the user has switched access off."""
    try:
        from huggingface_hub import constants, get_session
    except Exception as error:
        return Hub("the hub", why=_reason(error), answers=False)
    if constants.HF_HUB_OFFLINE:
        return Hub(constants.ENDPOINT, offline=True)
    found = [Hub(constants.ENDPOINT, why=f"no answer within {SECONDS:.0f} s", answers=False)]

    def ask() -> None:
        try:
            code = get_session().head(constants.ENDPOINT, timeout=SECONDS).status_code
            found[0] = Hub(constants.ENDPOINT, why=f"it answers {code}" if code >= 500 else "")
        except Exception as error:  # HTTP clients, proxies and name resolution each have their own exceptions
            found[0] = Hub(constants.ENDPOINT, why=_reason(error), answers=False)

    asking = threading.Thread(target=ask, daemon=True)  # as a name service may take longer than the time-out
    asking.start()
    asking.join(SECONDS)
    return found[0]


def _reason(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


# The answer that holds for this process.
_answer = cache(ask_hub)


def expect_from_hub(*names: str) -> None:
    """Call before something is loaded from the hub: if it does not answer, libraries take what is in their cache at once.

    Args:
        names: of the models and datasets; without any, nothing is asked.
    """
    if all(Path(name).is_absolute() for name in names) or _answer.cache_info().currsize:  # a folder that is gone is on no hub
        return
    from huggingface_hub import constants, get_session, set_client_factory

    endpoint, wanted = constants.ENDPOINT, " and ".join(names)
    with waiting(f"asking {endpoint} for {wanted}", after=1.0):
        hub = _answer()
    if not hub.answers:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            show(f"*** WARNING: {endpoint} does not answer ({hub.why}): {wanted} must be in the cache", sys.stderr)
        os.environ["HF_HUB_OFFLINE"] = "1"  # for the ranks that this process may start
        client: Any = type(get_session())
        set_client_factory(lambda: client(event_hooks={"request": [_refuse]}))


def _refuse(request: Any) -> NoReturn:
    """Answers a request of the hub's library as it does itself where HF_HUB_OFFLINE is set."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    raise OfflineModeIsEnabled(f"{request.url} is not asked for, as the hub does not answer")
