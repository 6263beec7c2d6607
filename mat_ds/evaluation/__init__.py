"""Scores of a model on clean, adversarially perturbed, and noisy texts."""
