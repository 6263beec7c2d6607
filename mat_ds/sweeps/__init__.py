"""Many trainings under one name: the search for options, and one set of options over several seeds."""
