"""A division of images as a table, by which others divide them alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from tlopt.errors import ImagesError
from tlopt.images import manifest
from tlopt.images.folder import ImageFolder
from tlopt.images.parts import SPLITS, Split
from tlopt.publishing import writing
from tlopt.reading.names import shown_name


def has_all_parts(folder: ImageFolder) -> bool:
    """Return whether images have all their parts on disk, so that nobody draws any."""
    return set(range(len(SPLITS))) <= set(np.unique(folder.fixed).tolist())


def expect_writable(folder: ImageFolder) -> None:
    """Check that a table can hold the names of images.

    Raises:
        ImagesError: It cannot.
    """
    for file in folder.files:
        path = str(folder.path.absolute() / file)
        if not path.isprintable() and any(0xD800 <= ord(letter) <= 0xDFFF for letter in path):
            raise ImagesError(
                f"The name {shown_name(file)} in {folder.source} is not written in UTF-8.",
                hint="Rename it, or make train, val and test folders with tlopt data split.",
            )


def write(table: Path, parts: Mapping[Split, ImageFolder]) -> None:
    """Write down to which part each image belongs; a half-written table is never seen.

    Args:
        table: A CSV manifest to write.
        parts: The images by part.

    Raises:
        OSError: It cannot be written.
    """
    with writing(table) as scratch:
        manifest.write(scratch, _rows(parts))


def _rows(parts: Mapping[Split, ImageFolder]) -> Iterator[manifest.Row]:
    for part, folder in parts.items():
        root = folder.path.absolute()
        origins = folder.origins or ("",) * len(folder)
        for file, label, origin in zip(folder.files, folder.labels.tolist(), origins, strict=True):
            yield manifest.Row(
                path=str(root / file), label=folder.classes[label], part=SPLITS.index(part), origin=origin
            )
