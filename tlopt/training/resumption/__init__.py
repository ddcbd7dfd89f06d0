"""How a training is interrupted and goes on."""
