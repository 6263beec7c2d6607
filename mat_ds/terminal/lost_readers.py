"""Keeps a rank alive when the process that reads its output ends."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any, TextIO, cast


class Lasting:
    """A text stream that goes silent when its reader is gone, instead of failing.

    When `deepspeed --hostfile` is told to stop, it ends pdsh, which reads the ranks' output, before it signals the ranks. The
    next line printed would kill a rank that is still saving. The same happens when a terminal closes.

    Attributes:
        stream: the one that fails, for a command that goes on only while somebody reads.
    """

    def __init__(self, stream: TextIO):
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except OSError as error:
            self._outlast(error)
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as error:
            self._outlast(error)

    def _outlast(self, error: OSError) -> None:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise error
        # Replace the file descriptor: the stream's buffer still holds the text, which Python flushes at exit.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())
        os.close(nowhere)


def outlast_readers() -> None:
    """Lets this process survive the loss of whoever reads its output."""
    sys.stdout, sys.stderr = cast(TextIO, Lasting(sys.stdout)), cast(TextIO, Lasting(sys.stderr))
