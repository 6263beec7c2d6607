"""A run's files on disk: how they are written, who holds the directory, checkpoints, the event log. No torch, no training."""
