"""Searching for the best classifier: what there is to choose from, how fast it is, how well it may do."""
