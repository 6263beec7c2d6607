"""launch/train.py with a fault: FAULT="<rank> <error>" makes that rank's loader raise in outer step 2."""

import builtins
import os
import sys

from mat_ds.commands.train import main
from mat_ds.tasks.loader import TrainLoader

micro_batches = TrainLoader.micro_batches


def faulty(self, outer_step):
    rank, error = os.environ["FAULT"].split()
    if outer_step == 2 and os.environ["RANK"] == rank:
        raise getattr(builtins, error)("row 7")
    return micro_batches(self, outer_step)


if __name__ == "__main__":
    TrainLoader.micro_batches = faulty
    sys.exit(main(sys.argv[1:]))
