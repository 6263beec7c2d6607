"""examples/own_loop.py at each ZeRO stage, on the ranks of one start."""

from examples.own_loop import train

for stage in range(4):
    train(stage)
