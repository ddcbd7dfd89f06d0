"""Where `vision_ops` was in version 0.1; scripts that import it from here go on working."""

from tlopt.networks import vision_ops

__all__ = ["vision_ops"]
