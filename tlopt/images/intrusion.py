"""Outputs among the images that a command reads: the next command would take them for images, or for a class."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from tlopt.cards.card import CARD_NAME
from tlopt.errors import MisplacedError
from tlopt.images.scanning import class_folders, parts_of
from tlopt.publishing import Kind, files
from tlopt.publishing.places import located
from tlopt.reading.image_files import below


def refuse(out: str | Path, reads: Iterable[str | Path]) -> None:
    """Refuse an output that lies where the images of one of some folders are looked for.

    Args:
        out: The folder to make.
        reads: What the command reads: folders of images, and other files and folders, which are passed over.

    Raises:
        MisplacedError: It does.
    """
    if (read := _around(located(out), reads)) is not None:
        raise MisplacedError(
            f"{out} lies among the images in {read}: the next command would take it for a class.",
            hint="Choose an --out beside that folder, not in it.",
        )


def check_file(file: str | Path, *, makes: Kind, force: bool = True, reads: Iterable[str | Path] = ()) -> None:
    """Do what `tlopt.publishing.check_file` does, and refuse a file in a class folder of the images, too.

    Raises:
        OutputExistsError: It would replace something.
        OutputError: It cannot be written, or lies among the images.
    """
    reads = tuple(reads)
    files.check_file(file, makes=makes, force=force, reads=reads)
    refuse_file(file, reads)


def refuse_file(file: str | Path, reads: Iterable[str | Path]) -> None:
    """Refuse a file to write in a class folder of the images.

    Raises:
        MisplacedError: It lies there.
    """
    if (read := _around(Path(os.path.realpath(file)).parent, reads)) is not None:
        raise MisplacedError(
            f"{file} lies among the images in {read}, in a folder of a class.",
            hint="Name a file beside that folder, not in it.",
        )


def _around(place: Path, reads: Iterable[str | Path]) -> str | Path | None:
    """Return the one of some folders whose images are looked for at a place; None if it is no such folder."""
    for read in reads:
        root = Path(os.path.realpath(read))
        if root in place.parents and _is_searched(root, place.relative_to(root).parts):
            return read
    return None


def _is_searched(root: Path, names: tuple[str, ...]) -> bool:
    """Return whether a path below a folder is gone through for images, if the folder has class folders."""
    if any(name.startswith(".") for name in names) or os.path.lexists(root / CARD_NAME):
        return False
    try:
        tops = class_folders(root)
        if parts := parts_of(root, tops):
            return names[0] in parts.values()
        return any(next(below(root, root / name), None) for name in tops if name != names[0])
    except OSError:  # told when it is scanned
        return False
