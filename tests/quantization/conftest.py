"""The small graphs of `tiny_graphs`, and the tiny networks of `tiny_nets`."""

from tiny_graphs import build, builder, family, photos_like
from tiny_nets import net, one_thread, parts, photos

__all__ = ["build", "builder", "family", "net", "one_thread", "parts", "photos", "photos_like"]
