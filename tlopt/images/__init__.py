"""Labelled images: scan, split, digest, decode."""

from tlopt.images.decoding import MAX_UNREADABLE, Batch, Unreadable, batches, read_batch
from tlopt.images.folder import ImageFolder
from tlopt.images.ordered import ordered
from tlopt.images.parts import SPLITS, Split
from tlopt.images.scanning import reopen, scan
from tlopt.reading.image_files import SUFFIXES

__all__ = [
    "MAX_UNREADABLE",
    "SPLITS",
    "SUFFIXES",
    "Batch",
    "ImageFolder",
    "Split",
    "Unreadable",
    "batches",
    "ordered",
    "read_batch",
    "reopen",
    "scan",
]
