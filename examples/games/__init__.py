"""The theory, runnable: Algorithm 1 of MAT on games small enough to solve exactly. `python -m examples.games` plays three."""
