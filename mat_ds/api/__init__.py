"""What `import mat_ds` offers to a notebook or a script: thin doors to the rooms before."""
