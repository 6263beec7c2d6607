"""The speed of training compared with fast and with published code: `python -m benchmarks.speed`."""
