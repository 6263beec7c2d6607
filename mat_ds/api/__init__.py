"""The functions of `import mat_ds`, thin wrappers of the other rooms."""
