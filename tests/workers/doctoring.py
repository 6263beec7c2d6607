"""Worker: two ranks run the doctor repeatedly, each time with one fault on rank 1. argv: report, a port for each run."""

import io
import json
import os
import signal
import sys
import time
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

from torch import distributed

from mat_ds.commands import doctor
from mat_ds.ranks.world import World


def other_version(name):
    return "5.99.0" if name == "transformers" else version(name)


def doubled(tensor, *arguments, reduce=distributed.all_reduce, **options):
    return reduce(tensor.mul_(2), *arguments, **options)


def broken(*arguments):
    raise RuntimeError("no kernel image is available")


def terminating(*arguments):
    os.kill(int(pid_file().read_text()), signal.SIGTERM)
    raise RuntimeError("died")


def pid_file():
    return Path(sys.argv[1]).with_suffix(".pid")


@contextmanager
def late_clock(clock=time.time):
    with patch("time.time", lambda: clock() + 100):
        yield


WRONG_ON_RANK_1 = {
    "healthy": None,
    "version": lambda: patch("mat_ds.doctor.packages.installed", other_version),
    "clock": late_clock,
    "sum": lambda: patch("torch.distributed.all_reduce", doubled),
    "stops": lambda: patch("mat_ds.doctor.links.wrong_parts", broken),
    "killed": lambda: patch("mat_ds.doctor.links.wrong_parts", terminating),
    "hangs": lambda: patch("mat_ds.doctor.links.wrong_parts", lambda *arguments: time.sleep(60)),
    "absent": None,
}


def main():
    world, report = World.from_environment(), {}
    if world.rank == 0:
        pid_file().write_text(str(os.getpid()))
    for port, (name, wrong) in zip(sys.argv[2:], WRONG_ON_RANK_1.items(), strict=True):
        os.environ["MASTER_PORT"] = port
        seconds = {"absent": "2", "hangs": "5"}.get(name, "60")
        if name == "absent" and world.rank == 1:
            break
        printed = io.StringIO()
        leave = patch.object(doctor, "leave", lambda code, ended: report.update(ended=ended) or code)
        with leave, redirect_stdout(printed):
            if wrong and world.rank == 1:
                with wrong():
                    code = doctor.main(["--json", "--timeout", seconds])
            else:
                code = doctor.main(["--json", "--timeout", seconds])
        report[name] = {"code": int(code), "ended": report.pop("ended"), "printed": printed.getvalue()}
    if world.rank == 0:
        Path(sys.argv[1]).write_text(json.dumps(report))
    sys.stdout.flush()
    os._exit(0)  # a rank that hangs is part of the test


if __name__ == "__main__":
    main()
