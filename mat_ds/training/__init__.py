"""One fine-tuning run, from its options to its results."""
