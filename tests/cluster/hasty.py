"""launch/train.py with leases of seconds, not of a minute and a half: `python -m tests.cluster.hasty ...`"""

import sys

from mat_ds import leases, lock
from mat_ds.train import main

LEASE_SECONDS, BEAT_SECONDS = 8.0, 1.0

if __name__ == "__main__":
    for module in (leases, lock):
        module.LEASE_SECONDS, module.BEAT_SECONDS = LEASE_SECONDS, BEAT_SECONDS
    sys.exit(main(sys.argv[1:]))
