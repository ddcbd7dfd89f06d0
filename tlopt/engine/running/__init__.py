"""A built engine at work: opened, fed, timed layer by layer."""
