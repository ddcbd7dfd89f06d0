"""What is measured on artifacts: accuracy, parity, speed. Every function here reads and changes nothing."""
