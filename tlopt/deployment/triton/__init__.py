"""A model repository of Triton: its configuration, its files, and the settings that a measurement finds for it."""
