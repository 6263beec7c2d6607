"""The configuration of a run: its schema, and how it is put together from defaults, recipe and command line."""
