"""Models for sequence classification and the perturbation of their word embeddings."""
