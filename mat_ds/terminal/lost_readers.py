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
        lost: whether the reader is gone.
    """

    def __init__(self, stream: TextIO):
        self._stream, self.lost = stream, False

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
        # Replace the file descriptor: the stream's buffer still holds the text, which Python flushes at exit.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        self.lost = True


def has_lost_reader(stream: TextIO) -> bool:
    """Whether what is written to a stream of this process is read by nobody any more."""
    return isinstance(stream, Lasting) and stream.lost


def outlast_readers() -> None:
    """Lets this process survive the loss of whoever reads its output."""
    sys.stdout, sys.stderr = cast(TextIO, Lasting(sys.stdout)), cast(TextIO, Lasting(sys.stderr))
