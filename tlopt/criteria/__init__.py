"""How channels are ranked for pruning: one file per criterion."""
