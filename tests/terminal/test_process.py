"""A command's own process: it ends with the command's code, once all handlers have run and all text is written."""

import shlex
import signal
import subprocess
import sys

import pytest

from tests.support.launch import environment

MAIN = """
import atexit, sys, threading, time, warnings
from mat_ds.terminal.process import run_process

class Slow:
    def __del__(self):
        print("taken apart")

kept = Slow()
atexit.register(lambda: print("first handler"))

def main(arguments):
    atexit.register(lambda: print("second handler"))
    threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
    print(arguments)
    warnings.warn("a library's own affair", FutureWarning)
    print("error", file=sys.stderr)
    {last}

run_process(main)
"""


def ended(last):
    return subprocess.run([sys.executable, "-c", MAIN.replace("{last}", last), "a", "b"], capture_output=True, text=True)


@pytest.mark.parametrize("code", [0, 3])
def test_a_process_ends_after_its_threads_and_handlers_with_the_code_of_its_command(code):
    done = ended(f"return {code}")
    assert (done.returncode, done.stderr) == (code, "error\n")
    assert done.stdout.splitlines() == ["['a', 'b']", "thread", "second handler", "first handler"]


def test_an_error_of_a_command_is_printed_as_ever():
    done = ended("raise RuntimeError('broken')")
    assert done.returncode == 1 and done.stderr.endswith("RuntimeError: broken\n") and "taken apart" in done.stdout


def test_a_command_whose_reader_has_gone_ends_with_its_own_code():
    for last in ("print('x' * 100_000, flush=True); return 3", "print('x' * 100_000); return 3"):
        program = f"{sys.executable} -c {shlex.quote(MAIN.replace('{last}', last))} | true; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", program], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (3, "error\n")


def test_a_command_that_exits_by_itself_keeps_its_code():
    assert ended("sys.exit(5)").returncode == 5


IMPORTS = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from mat_ds.terminal.process import run_process

def main(arguments):
    import atexit, time
    atexit.register(lambda: print("handler"))
    print("ready", flush=True)
    time.sleep(60)

run_process(main)
"""


@pytest.mark.parametrize("rank, said", [(None, "\ninterrupted\n"), ("0", "\ninterrupted\n"), ("1", "")])
def test_ctrl_c_before_there_is_anything_to_save_ends_each_rank_with_one_line_and_no_traceback(rank, said, processes):
    env = environment(**({"LOCAL_RANK": rank} if rank else {}))
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen([sys.executable, "-c", IMPORTS], env=env, text=True, **pipes)
    processes.append(process)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ("handler\n", said) and process.returncode == -signal.SIGINT


@pytest.mark.parametrize("last", ["run_process(lambda arguments: main())", "main()"])
def test_only_in_a_commands_own_process_is_what_it_imports_kept_from_the_garbage_collector(last):
    code = f"""
import gc
from mat_ds.terminal.process import importing, run_process

def main():
    with importing():
        import json
        print(gc.isenabled())
    print(gc.isenabled(), gc.get_freeze_count() > 0, flush=True)
    return 0

{last}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    own = last.startswith("run")
    assert done.stdout.split() == [str(not own), "True", str(own)], done.stderr
