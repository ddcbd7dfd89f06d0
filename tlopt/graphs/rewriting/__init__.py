"""Equal graphs in another form: what is computed once, merged into a neighbour, or moved."""
