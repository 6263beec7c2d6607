"""What a person sees of a command, and the signals by which one stops it."""
