"""How the ranges of an int8 network are chosen: one file per quantizer."""
