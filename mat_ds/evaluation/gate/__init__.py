"""What a model must reach before it is promoted: conditions on the numbers of its evaluation."""
