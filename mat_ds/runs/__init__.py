"""All options of a run, validated together, and whether a run may be resumed."""
