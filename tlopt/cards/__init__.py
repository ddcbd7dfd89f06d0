"""Cards: what an artifact says of itself, typed, and how older cards are read."""
