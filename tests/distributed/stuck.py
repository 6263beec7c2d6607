"""Worker: rank 0 fails while rank 1 waits for something that never comes."""

import sys
import time

from mat_ds.command import attempt
from mat_ds.engine import lookout
from mat_ds.engine.distributed import World, process_group

lookout.LEAVE = 2.0


def main():
    world = World.from_environment()

    def work():
        if world.rank == 0:
            raise RuntimeError("out of luck")
        time.sleep(600)

    with process_group(world):
        return attempt(work, world, "")


if __name__ == "__main__":
    sys.exit(main())
