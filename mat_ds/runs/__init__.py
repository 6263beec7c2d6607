"""All options of a run together, and whether a run may go on."""
