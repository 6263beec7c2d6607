"""A training run, from its options to its results."""
