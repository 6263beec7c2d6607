"""Tasks: what their data looks like, where it comes from, in which order it is read, and how predictions are scored."""
