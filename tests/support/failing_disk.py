"""Counts Python's calls that change a disk, and makes the n-th fail or kill the process."""

import builtins
import errno
import io
import os
import sys
from contextlib import ExitStack, contextmanager
from unittest import mock

CHANGES = ("open", "rename", "replace", "link", "unlink", "remove", "rmdir", "mkdir", "fsync", "chmod", "fchmod", "sendfile",
           "scandir", "listdir")  # fmt: skip
WRITING = set("wax+")


class KilledError(BaseException):
    """Stands for a killed process: code that catches exceptions must not catch it or clean up."""


class Disk:
    """Counts calls, and produces `fault` at call number `at`.

    Args:
        at: counted from 1; None: only counts.
        fault: `killed` before the call; `torn`, killed in the middle of what it writes, or after a call that writes nothing;
            or the name of an error that the call raises.
    """

    def __init__(self, at=None, fault=None):
        self.at, self.fault, self.count, self.dead, self.calls = at, fault, 0, False, []

    def call(self, name, function, *arguments, half=None, **options):
        if self.dead:
            raise KilledError
        self.count += 1
        self.calls.append(name)
        if self.count != self.at:
            return None if name == "fsync" else function(*arguments, **options)
        if self.fault in ("killed", "torn"):
            self.dead = True
            if self.fault == "torn":
                (half or (lambda: function(*arguments, **options)))()
            raise KilledError
        raise OSError(getattr(errno, self.fault), os.strerror(getattr(errno, self.fault)))

    def saving(self, save_file):
        """Replaces safetensors' `save_file`, which does not write through Python."""

        def save(tensors, path):
            def half():
                save_file(tensors, path)
                os.truncate(path, os.path.getsize(path) // 2)

            self.call("save_file", save_file, tensors, path, half=half)

        return save

    @contextmanager
    def failing(self):
        """A context in which the calls are counted."""
        opened = io.open

        def open_file(file, mode="r", *rest, **options):
            if isinstance(file, int):
                own = opened(file, mode, 0) if WRITING & set(mode) else opened(file, mode, *rest, **options)
            else:
                own = self.call("open", opened, file, mode, *rest, **options)
            return Written(self, own) if WRITING & set(mode) else own

        with ExitStack() as stack:
            for name in CHANGES:
                original = getattr(os, name)
                changed = lambda *a, _n=name, _f=original, **o: self.call(_n, _f, *a, **o)  # noqa: E731
                stack.enter_context(mock.patch.object(os, name, changed))
            stack.enter_context(mock.patch.object(io, "open", open_file))
            stack.enter_context(mock.patch.object(builtins, "open", open_file))
            state = sys.modules["mat_ds.engine.state"]
            stack.enter_context(mock.patch.object(state, "save_file", self.saving(state.save_file)))
            yield


class Written:
    """A file opened for writing."""

    def __init__(self, disk, file):
        self._disk, self._file = disk, file

    def write(self, data):
        return self._disk.call("write", self._file.write, data, half=lambda: self._file.write(data[: len(data) // 2]))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)
