"""How a network is trained for new classes, and which of its trainings is kept."""
