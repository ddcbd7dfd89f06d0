"""What a measurement of speed is made of: what runs, what it is fed with, and what the machine does meanwhile."""
