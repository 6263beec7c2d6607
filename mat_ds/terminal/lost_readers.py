"""What ranks print, where nobody reads it any more."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any, TextIO, cast


class Lasting:
    """A text stream that falls silent when its reader goes, instead of failing.

    `deepspeed --hostfile` that is told to stop ends pdsh, which reads what the ranks print, before it tells the ranks: the
    next line of one that is to save would be its last. A terminal that closes is gone before whoever is told of it has saved.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._outlast(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._outlast(error)

    def _outlast(self, error: OSError) -> None:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise error
        # Below the stream: its buffer still holds the text, and Python flushes it at the end.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


def outlast_readers() -> None:
    """What this process prints may lose its reader, without the process being lost to it."""
    sys.stdout, sys.stderr = cast(TextIO, Lasting(sys.stdout)), cast(TextIO, Lasting(sys.stderr))
