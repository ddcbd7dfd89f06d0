"""The tiny networks and images of `tiny_nets`."""

from tiny_nets import net, one_thread, parts, photos

__all__ = ["net", "one_thread", "parts", "photos"]
