"""`mat-ds doctor`: what is wrong with a machine, its packages, its links and a run's input before training finds out."""
