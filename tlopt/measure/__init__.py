"""What is measured of an artifact: accuracy, parity and speed."""
