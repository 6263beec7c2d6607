"""Langevin samplers of the parameters, their mixtures, and the keys of all randomness."""
