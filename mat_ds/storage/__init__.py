"""A run on disk: its files, who holds it, its checkpoints and its log. Knows neither torch nor what trains."""
