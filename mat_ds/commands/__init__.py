"""The commands of a shell, one file each."""
