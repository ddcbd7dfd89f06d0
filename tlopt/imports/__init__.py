"""How other people's networks are read: their input, their answers, their batches, their class names."""
