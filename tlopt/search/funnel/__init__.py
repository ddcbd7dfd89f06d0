"""From everything that could be tried to the one that is shipped: time, rank, train, compress, decide."""
