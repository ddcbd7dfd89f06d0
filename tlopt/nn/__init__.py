"""The parts of tlopt that work on torch modules."""
