"""How fast training is, against what it could be: `python -m benchmarks.speed`."""
