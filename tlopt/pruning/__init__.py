"""Pruning: which channels go together, what they are worth, and what their layers cost in time."""
