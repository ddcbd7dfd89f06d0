"""What artifacts answer on images."""
