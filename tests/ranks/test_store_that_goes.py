"""If the process that hosts the store is killed, torch prints nothing."""

import subprocess
import sys

from tests.support.launch import ROOT, environment, free_port

HOST = """
import sys, time
import torch.distributed as dist
store = dist.TCPStore("127.0.0.1", int(sys.argv[1]), is_master=True, wait_for_workers=False)
print("there", flush=True)
time.sleep(60)
"""
CLIENT = """
import sys, threading, subprocess
import mat_ds
import torch.distributed as dist
host = subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[1]], stdout=subprocess.PIPE, text=True)
host.stdout.readline()
store = dist.TCPStore("127.0.0.1", int(sys.argv[1]), is_master=False)
threading.Timer(0.5, host.kill).start()
try:
    store.get("nothing")  # asked, and not answered any more
except dist.DistError:
    print("gone")
"""


def test_an_unanswered_request_to_a_killed_host_prints_no_cpp_trace():
    command = [sys.executable, "-c", CLIENT, str(free_port()), HOST]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.stdout == "gone\n" and "c10" not in done.stderr, done.stderr
