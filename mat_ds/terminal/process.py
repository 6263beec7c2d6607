"""The life of a command's own process: no idle work while it starts and ends."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn

from mat_ds.terminal.lost_readers import outlast_readers
from mat_ds.terminal.waiting import waiting

# New objects between two runs of the garbage collector, in place of Python's 700. Libraries make half a million objects while
# they are imported, none of them garbage.
NEW_OBJECTS = 100_000
# Whether all that this process does is a command.
_own = False


def run_process(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Calls `main` with the command line's arguments, as all that this process does, and exits with its code.

    Call it before other modules are imported. The process ends once its threads have ended and its exit handlers have run, as
    those of multiprocessing do: Python would go on to take torch and transformers apart object by object, for more than a
    second of processor time. An exception ends it as ever, but Ctrl-C with a line in place of a traceback.
    """
    global _own
    _own = True
    gc.set_threshold(NEW_OBJECTS)
    if not sys.warnoptions:  # what Python was started with says otherwise
        warnings.simplefilter("ignore")  # those of libraries, which are about their code and not about the user's input
    outlast_readers()
    try:
        code = main(sys.argv[1:])
        threading._shutdown()  # type: ignore[attr-defined]
    except KeyboardInterrupt:
        _end_by_ctrl_c()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _end_by_ctrl_c() -> NoReturn:
    """Ends the process by the signal itself, so that a shell also ends a loop around the command."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if os.environ.get("LOCAL_RANK", "0") == "0":
        with suppress(OSError):
            os.write(2, b"\ninterrupted\n")
    atexit._run_exitfuncs()
    with suppress(OSError):
        sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGINT)
    os._exit(128 + signal.SIGINT)


@contextmanager
def importing(speaks: bool = True, what: str = "torch and transformers") -> Iterator[None]:
    """A context in which a command imports what is large, once its options are checked.

    It says so if that takes long. In a command's own process the garbage collector never looks at what is imported: the two
    times that a run has it look at everything took half a second.

    Args:
        speaks: whether this process may speak.
        what: is imported.
    """
    with waiting(f"importing {what}", speaks):
        if _own:
            gc.disable()
        yield
        if _own:
            gc.freeze()
            gc.enable()
