"""Pruning of depth: whole blocks of a network, beside channels."""
