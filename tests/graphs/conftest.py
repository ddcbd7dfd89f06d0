"""The small graphs of `tiny_graphs`."""

from tiny_graphs import build, builder, family, photos_like

__all__ = ["build", "builder", "family", "photos_like"]
