"""Like `subprocess`, for Python programs whose imports take ten seconds: it forks them from a process that has them."""

import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.forkserver import PASSED_ON

ROOT = Path(__file__).parents[2]
# The socket of the server, shared by all test processes.
ADDRESS = "MAT_DS_TESTS_FORKSERVER"
PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")


class ForkServer:
    """A context in which a fork server serves the tests of this process and of its children."""

    def __init__(self, env):
        self._folder = tempfile.TemporaryDirectory()
        address, listener = f"{self._folder.name}/socket", socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(address)
        listener.listen(64)
        os.environ[ADDRESS] = env[ADDRESS] = address
        life, self._life = os.pipe()
        with listener:
            command = [sys.executable, "-m", "tests.support.forkserver", str(listener.fileno()), str(life)]
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=env,
                pass_fds=(listener.fileno(), life),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        os.close(life)

    def close(self):
        del os.environ[ADDRESS]
        os.close(self._life)
        self._process.wait()
        self._folder.cleanup()


class Process(subprocess.Popen):
    """A `subprocess.Popen` that forks `python -m MODULE ...` and `python SCRIPT ...` if that makes no difference to them.

    Attributes:
        server: the connection to the fork server, which reports the process's end; None if it was started, not forked.
    """

    server = None

    def _execute_child(self, *given):
        asked = inspect.signature(super()._execute_child).bind(*given).arguments  # a private function: by name
        command, env = asked["args"], os.environ if asked["env"] is None else asked["env"]
        python = list(command[:1]) == [sys.executable] and (command[1] == "-m" or not command[1].startswith("-"))
        plain = not (asked["executable"] or asked["preexec_fn"] or asked["pass_fds"]) and asked["close_fds"]
        ends = [asked[end] for end in ("p2cread", "c2pwrite", "errwrite")]
        files = [number if end == -1 else end for number, end in enumerate(ends)]
        ignored = [number for number in PASSED_ON if signal.getsignal(number) == signal.SIG_IGN]
        options = dict(
            folder=str(asked["cwd"] or os.getcwd()), environment=dict(env), session=asked["start_new_session"], ignored=ignored
        )
        if not (ADDRESS in os.environ and python and plain and self._fork(list(map(str, command[1:])), files, **options)):
            return super()._execute_child(*given)
        self._child_created = True
        self._close_pipe_fds(*(asked[end] for end in PIPES))

    def _fork(self, arguments, files, **options):
        """Asks the server to fork; returns whether it did."""
        asked = {"arguments": arguments, **options}
        server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        server.connect(os.environ[ADDRESS])
        socket.send_fds(server, [json.dumps(asked).encode()], files)
        self.pid = int(server.recv(100))
        if self.pid:
            self.server = server
        else:
            server.close()
        return bool(self.pid)

    def _try_wait(self, flags):
        if self.server is None:
            return super()._try_wait(flags)
        self.server.setblocking(not flags)
        try:
            status = int(self.server.recv(100))
        except BlockingIOError:
            return 0, 0
        self.server.close()
        return self.pid, status

    def _internal_poll(self, *given, **more):
        if self.server is None:
            return super()._internal_poll(*given, **more)
        if self.returncode is None and self._waitpid_lock.acquire(False):
            try:
                pid, status = self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)
            finally:
                self._waitpid_lock.release()
        return self.returncode


def run(command, timeout, **options):
    """Like `subprocess.run`, with text output; if time is over, an error that shows where the process is."""
    with Process(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, **options
    ) as process:
        try:
            out, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # faulthandler prints where its threads are
            out, errors = process.communicate(timeout=30)
            raise AssertionError(f"{command} had not ended after {timeout} s\n{out[-3000:]}\n{errors[-6000:]}") from None
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, errors)
