"""Says what a command is doing while it seems to do nothing."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mat_ds.terminal.display import show

# Seconds of silence after which a person wonders.
PATIENCE = 2.0


@contextmanager
def waiting(what: str, speaks: bool = True, after: float = PATIENCE) -> Iterator[None]:
    """A context in which `what` is shown once if it takes longer than `after` seconds and a person watches.

    Args:
        what: what is done, such as "importing torch".
        speaks: whether this process may speak; of a machine's ranks only the first does.
        after: seconds.
    """
    timer = threading.Timer(after, lambda: show(f"{what} ...", sys.stderr))
    timer.daemon = True
    if speaks and os.environ.get("LOCAL_RANK", "0") == "0" and sys.stderr.isatty():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
