"""launch/train.py with leases of seconds instead of 90: `python -m tests.cluster.hasty ...`

If CLOCK_STEP is set, its wall clock is changed by so many seconds, STEP_AFTER seconds after the start.
"""

import os
import sys
import time

from mat_ds.commands.train import main
from mat_ds.storage import leases, lock

LEASE_SECONDS, BEAT_SECONDS, STEP_AFTER = 8.0, 1.0, 15.0


def step_the_clock(seconds):
    clock, since = time.time, time.monotonic()
    time.time = lambda: clock() + (seconds if time.monotonic() - since > STEP_AFTER else 0.0)


if __name__ == "__main__":
    for module in (leases, lock):
        module.LEASE_SECONDS, module.BEAT_SECONDS = LEASE_SECONDS, BEAT_SECONDS
    step_the_clock(float(os.environ.get("CLOCK_STEP", 0)))
    sys.exit(main(sys.argv[1:]))
