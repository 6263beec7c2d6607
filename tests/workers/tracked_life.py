"""Worker: logs a run as rank 0 does, without training: `python -m tests.workers.tracked_life RUN FIRST`.

It logs a step for every line it reads, until the line is `end`, `fail` or `stop`, and then ends in that way.
"""

import sys
from pathlib import Path

import yaml

from mat_ds.errors import Interrupted
from mat_ds.storage.lock import RunLock
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tracking.tracker import Tracker


def main(path, first):
    run, lock, tracker = RunDirectory(Path(path)), RunLock(), Tracker(keeps=True)
    lock.acquire(run.path)
    try:
        with tracker:
            tracker.begin(run, first - 1, yaml.safe_load(run.config.read_text())["tracking"]["uri"])
            for step, line in enumerate(sys.stdin, first):
                match line.strip():
                    case "fail":
                        raise RuntimeError("out of luck")
                    case "stop":
                        raise Interrupted("SIGTERM")
                    case "end":
                        break
                tracker.log({"event": "step", "step": step, "loss": 1 / step})
    except (RuntimeError, Interrupted):
        pass
    finally:
        lock.release()
    tracker.settle()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
