"""Models for classification and regression: loading, checking, adapters, and the perturbation of word embeddings."""
