"""The subcommands of `mat-ds`, one file each."""
