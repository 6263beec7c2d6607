"""What a command shows, and the signals that stop it."""
