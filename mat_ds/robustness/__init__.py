"""How well a fine-tuned model stands up to perturbed embeddings and to misspelt and mangled texts."""
