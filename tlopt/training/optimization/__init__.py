"""What a step of training minimizes, with which rates, and in which arithmetic."""
