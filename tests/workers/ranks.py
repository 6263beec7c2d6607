"""`python -m tests.workers.ranks N PROGRAM ...`: starts N ranks as a launcher does, but seconds faster.

The first rank that fails ends the others and determines the exit code.
"""

import os
import sys
import time

from tests.support.launch import free_port, rank_variables
from tests.support.processes import Process


def main(count, *program):
    port = free_port()
    ranks = [Process([sys.executable, *program], env=os.environ | rank_variables(rank, count, port)) for rank in range(count)]
    while (codes := [rank.poll() for rank in ranks]).count(0) < count:
        if failed := [code for code in codes if code]:
            for rank in ranks:
                rank.terminate()
            return failed[0]
        time.sleep(0.05)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))
