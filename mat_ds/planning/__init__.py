"""Whether a run fits on its cards, what to change if it does not, what it sends and how long it takes: `mat-ds plan`."""
