"""Folders that tlopt made and that stand where images are expected: what they are, and what to give instead."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tlopt.artifact import images_of
from tlopt.errors import ImagesError
from tlopt.publishing import marks
from tlopt.reading.image_files import below

_FOLDER = "Give a folder that holds one folder per class, or a .csv or .parquet manifest."


@contextlib.contextmanager
def telling(root: Path) -> Iterator[None]:
    """Say what a folder is if images were looked for in it in vain inside the block and tlopt made it.

    Raises:
        ImagesError: In the place of the one that the block raised.
    """
    try:
        yield
    except ImagesError as error:
        made = marks.made(root)
        if made is None or made.group == "set" or (made.group == "report" and _has_images(root)):
            raise
        raise no_images(root, made.what) from error


def no_images(path: Path, what: str) -> ImagesError:
    """Return the error of an artifact, or of another folder of tlopt, in the place of images.

    Args:
        path: The folder.
        what: What it is ("an artifact").
    """
    images = images_of(path) or images_of(path / "best")  # the second of a search
    hint = f"The images that it was trained on are in {images}." if images else _FOLDER
    return ImagesError(f"{path} is {what}, not a folder of images.", hint=hint)


def _has_images(root: Path) -> bool:
    """Return whether there are images in a folder: a report may lie beside them."""
    try:
        return next(below(root, root), None) is not None
    except OSError:
        return True
