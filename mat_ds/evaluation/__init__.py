"""How good a model is, and how well it stands up to perturbed embeddings and to misspelt and mangled texts."""
