"""Recipes: a TOML file of steps, and what is remembered of those that are done."""
