"""The Langevin samplers of the parameters, their mixtures, and keyed randomness."""
