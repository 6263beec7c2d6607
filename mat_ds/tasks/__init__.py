"""Tasks: how their data is described, found, read, ordered and scored."""
