"""The processes of a run: their ranks, their communication, and how a failure of one ends the others."""
