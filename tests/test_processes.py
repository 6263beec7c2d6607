"""Processes that tests fork behave like processes that Python starts afresh."""

import json
import signal
import subprocess
import sys

import pytest
import sklearn.metrics  # noqa: F401
import transformers.models.roberta.modeling_roberta  # noqa: F401

import mat_ds.engine
import mat_ds.tracking  # noqa: F401  as any process of tests does, they set variables
from tests.support.launch import environment
from tests.support.processes import Process, run

pytestmark = pytest.mark.dist
# Earlier tests may have set environment variables in this process.
ENVIRONMENT = environment()

PROBE = """
import atexit, json, os, signal, sys, threading
atexit.register(print, "at exit", flush=True)
threading.Thread(target=lambda: threading.main_thread().join() or print("a thread to its end")).start()
handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD)]
threads = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
mask = os.umask(0)
import deepspeed, numpy, random, torch, mat_ds.engine, transformers.models.roberta.modeling_roberta
deepspeed = deepspeed.accelerator.get_accelerator()._name
print(json.dumps({
    "name": __name__, "argv": sys.argv, "path": sys.path, "environment": sorted(os.environ.items()), "folder": os.getcwd(),
    "input": sys.stdin.read(), "mask": mask, "threads": len(threads) < 4,
    "handlers": [getattr(handler, "__name__", handler) for handler in handlers], "session": os.getsid(0) == os.getpid(),
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())), "main": hasattr(sys.modules["__main__"], "PROBED"),
    "chance": [torch.rand(1).item(), numpy.random.rand(), random.random()],
    "at once": torch.get_num_threads(), "accelerator": deepspeed,
    "streams": [(s.fileno(), s.encoding, s.errors, s.line_buffering) for s in (sys.stdin, sys.stdout, sys.stderr)],
}))
PROBED = True
what, text = sys.argv[1:]
if what == "kill":
    sys.stdout.flush()
    os.kill(os.getpid(), int(text))
elif what == "raise":
    raise ValueError(text)
sys.exit(int(text))
"""


def both(command, **options):
    """The results of a forked and of a fresh process with the same command."""
    results = []
    for start in (Process, subprocess.Popen):
        process = start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
        assert (getattr(process, "server", None) is not None) == (start is Process)
        out, errors = process.communicate("a line\nand another", timeout=120)
        results.append((process.returncode, out, errors))
    return results


@pytest.mark.parametrize(
    ("module", "session", "interrupt", "what", "text", "code"),
    [
        (False, False, signal.default_int_handler, "exit", "75", 75),
        (True, False, signal.SIG_IGN, "raise", "no such thing", 1),
        (False, True, signal.default_int_handler, "kill", str(int(signal.SIGTERM)), -signal.SIGTERM),
    ],
)
def test_a_forked_process_behaves_like_a_started_one(module, session, interrupt, what, text, code, tmp_path):
    before = signal.signal(signal.SIGINT, interrupt)
    (tmp_path / "probe.py").write_text(PROBE)
    command = [sys.executable, *(["-m", "probe"] if module else ["probe.py"]), what, text]
    try:
        forked, fresh = both(command, cwd=tmp_path, env={**ENVIRONMENT, "RANK": "3"}, start_new_session=session)
    finally:
        signal.signal(signal.SIGINT, before)
    told, expected = (json.loads(out.splitlines()[0]) for _, out, _ in (forked, fresh))
    assert not set(told.pop("chance")) & set(expected.pop("chance"))
    assert told == expected and told["session"] == session and told["input"] == "a line\nand another"
    assert forked[0] == fresh[0] == code and forked[1].splitlines()[1:] == fresh[1].splitlines()[1:]
    assert (forked[1].splitlines()[-1] == "at exit") == (what != "kill")
    assert ("ValueError: no such thing" in forked[2]) == ("ValueError: no such thing" in fresh[2]) == (what == "raise")


def test_a_changed_variable_that_imports_have_read_gets_a_fresh_process(tmp_path):
    (tmp_path / "show.py").write_text("import os; print(os.environ['HF_HUB_OFFLINE'])")
    with Process([sys.executable, "show.py"], cwd=tmp_path, env={**ENVIRONMENT, "HF_HUB_OFFLINE": "0"}, stdout=-1) as process:
        assert process.server is None and process.communicate()[0] == b"0\n"


def test_waiting_for_a_process_times_out_and_it_can_be_killed(tmp_path):
    (tmp_path / "sleep.py").write_text("import time; time.sleep(600)")
    command = [sys.executable, "sleep.py"]
    process = Process(command, cwd=tmp_path, env=ENVIRONMENT)
    try:
        assert process.server is not None and process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    with pytest.raises(AssertionError, match=r"had not ended after 0.5 s(.|\n)*sleep.py"):
        run(command, 0.5, cwd=tmp_path, env=ENVIRONMENT)
