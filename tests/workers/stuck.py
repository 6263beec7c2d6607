"""Worker: rank 0 fails while rank 1 waits for something that never comes."""

import sys
import time

from mat_ds.engine.group import process_group
from mat_ds.ranks import lookout
from mat_ds.ranks.exits import attempt
from mat_ds.ranks.world import World

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
