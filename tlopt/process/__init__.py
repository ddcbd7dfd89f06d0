"""This process and those it starts: cores, signals, telemetry, children."""
