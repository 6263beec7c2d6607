"""Worker: examples/own_loop.py at each ZeRO stage."""

import mat_ds
from examples.own_loop import train

world = mat_ds.World.from_environment()
with mat_ds.process_group(world) as device:
    for stage in range(4):
        train(stage, world, device)
