"""`python -m tests.support.forkserver LISTENER LIFE`: makes the Python processes of tests by forking one that has done the
imports, which take ten seconds. It imports at the first request, and ends when the pipe LIFE is closed.

A forked process has the environment, working directory, files, session and end of a process that is started afresh; only its
hash seed is that of the server. If a variable differs that a library may have read while it was imported, the server refuses,
and the caller starts a new process instead (`tests.support.processes`).
"""

import contextlib
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import types

# Variables that no library reads when it is imported.
FREE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT", "PYTEST_CURRENT_TEST",
        "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID", "PYTEST_VERSION", "FAKE", "FAULT",
        "TOKENIZERS_PARALLELISM", "CUBLAS_WORKSPACE_CONFIG", "PYTORCH_NVML_BASED_CUDA_CHECK", "COLUMNS", "LINES",
        "WHOLE_GRIDS")  # fmt: skip
# Signals that a process ignores from its start if its parent did.
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
# Threads beside the first that a fork does not harm: Arrow's memory pool stops and restarts its own around one.
HARMLESS = {"jemalloc_bg_thd"}


def preload():
    """Imports what programs of this project import, and returns the variables that were set by that."""
    global numpy, torch
    before = dict(os.environ)
    import datasets  # noqa: F401
    import evaluate  # noqa: F401
    import matplotlib.backends.backend_agg  # noqa: F401
    import numpy
    import peft  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import torch
    import transformers.models.bert.modeling_bert
    import transformers.models.roberta.modeling_roberta  # noqa: F401

    import mat_ds.commands.evaluate
    import mat_ds.commands.train  # noqa: F401

    threads = set()
    for task in set(os.listdir("/proc/self/task")) - {str(os.getpid())}:
        with open(f"/proc/self/task/{task}/comm") as file:
            threads.add(file.read().strip())
    assert threads <= HARMLESS, f"a process with threads cannot be forked: {threads}"
    gc.collect()
    gc.freeze()
    return {name: value for name, value in os.environ.items() if before.get(name) != value}


class Server:
    def __init__(self, listener, life):
        self._listener, self._life = socket.socket(fileno=listener), life
        self._selector, self._children = selectors.DefaultSelector(), {}
        self._environment, self._imported = dict(os.environ), None

    def serve(self):
        """Answers requests by forking. Returns the request in a forked process, and None in the server at its end."""
        for file in (self._listener, self._life):
            self._selector.register(file, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj == self._life:
                    return None
                if key.fileobj is not self._listener:
                    self._tell_end(key.fileobj)
                elif asked := self._answer():
                    return asked

    def _answer(self):
        """Sends the forked process's number, or 0 if only a fresh process will do. `_tell_end` sends its end later."""
        connection, _ = self._listener.accept()
        message, files, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        asked = json.loads(message)
        if self._imported is None:
            self._imported = preload()
        if self._as_imported(asked["environment"]):
            if not (pid := os.fork()):
                return self._forked(asked, files, connection)
            pidfd = os.pidfd_open(pid)
            self._children[pidfd] = pid, connection
            self._selector.register(pidfd, selectors.EVENT_READ)
        else:
            pid = 0
        for file in files:
            os.close(file)
        connection.send(str(pid).encode())

    def _as_imported(self, environment):
        """Whether the imports would have seen the same variables in another environment. It may have the variables that imports
        set, and MLflow's, since MLflow is not imported here."""
        here = self._environment
        for name in (environment.keys() | here.keys()).difference(FREE):
            found = environment.get(name)
            if not (found in (here.get(name), self._imported.get(name, here.get(name))) or name.startswith("MLFLOW_")):
                return False
        return True

    def _tell_end(self, pidfd):
        self._selector.unregister(pidfd)
        os.close(pidfd)
        pid, connection = self._children.pop(pidfd)
        _, status = os.waitpid(pid, 0)
        with connection, contextlib.suppress(OSError):  # the caller may be gone
            connection.send(str(status).encode())

    def _forked(self, asked, files, connection):
        """Closes in the forked process what belongs to the server."""
        self._selector.close()
        for pidfd, (_, other) in self._children.items():
            os.close(pidfd)
            other.close()
        connection.close()
        self._listener.close()
        os.close(self._life)
        return {**asked, "files": files, "environment": {**self._imported, **asked["environment"]}}


def become(asked):
    """Does what Python does between its start and the first line of a program, then runs the program."""
    if asked["session"]:
        os.setsid()
    for number in PASSED_ON:
        own = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in asked["ignored"] else own)
    os.chdir(asked["folder"])
    for number, file in enumerate(asked["files"]):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(asked["environment"])
    # Python reseeds its own generator after a fork; these got a random seed when they were imported.
    torch.seed()
    numpy.random.seed()
    option, *arguments = asked["arguments"]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    if option == "-m":
        sys.argv, sys.path[0] = arguments, os.getcwd()
        sys.modules.pop(arguments[0], None)  # which is imported anew, under the name __main__
        runpy._run_module_as_main(arguments[0])  # as `python -m` does
    else:
        sys.argv, sys.path[0] = [option, *arguments], os.path.dirname(os.path.abspath(option))
        main.__file__ = option
        with open(option, "rb") as script:
            exec(compile(script.read(), option, "exec"), main.__dict__)


if __name__ == "__main__":
    this = sys.modules["__main__"]  # keeps the functions of this module alive
    if asked := Server(*map(int, sys.argv[1:])).serve():
        become(asked)
