"""Image files: which formats are read, and how one is opened and decoded."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from PIL import Image, UnidentifiedImageError

from tlopt.errors import ImagesError, reason
from tlopt.reading import files

log = logging.getLogger(__name__)

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".avif", ".tif", ".tiff", ".ppm", ".pgm"}
)

# Format -> the module of Pillow that reads it. Pillow knows forty more, by the content of a file whatever its name:
# for PostScript it would start Ghostscript.
_READERS = {
    "JPEG": "Jpeg", "MPO": "Mpo", "PNG": "Png", "WEBP": "WebP", "AVIF": "Avif", "GIF": "Gif", "BMP": "Bmp",
    "TIFF": "Tiff", "PPM": "Ppm",
}  # fmt: skip


@functools.cache
def formats() -> tuple[str, ...]:
    """Return the formats that are read here, as Pillow names them; imports what reads them."""
    for name in _READERS.values():
        with contextlib.suppress(ImportError):  # AVIF came with Pillow 11.3
            importlib.import_module(f"PIL.{name}ImagePlugin")
    return tuple(name for name in _READERS if name in Image.OPEN)


def below(root: Path, folder: Path) -> Iterator[str]:
    """Yield what goes by the name of an image in a folder and all below it, hidden ones passed over.

    What is no regular file is left out with a warning, but for folders, which may hold images, too.

    Args:
        root: The folder that the paths yielded are relative to.
        folder: Where to look; it lies in the root, or is the root.

    Raises:
        OSError: A folder cannot be read.
    """
    places = [folder]
    while places:
        place = places.pop()
        relative = place.relative_to(root).as_posix()
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if is_folder(entry):
                    if not entry.is_symlink():  # a link may lead back to where we are
                        places.append(Path(entry.path))
                elif os.path.splitext(entry.name)[1].lower() in SUFFIXES and _is_regular(entry):
                    yield entry.name if relative == "." else f"{relative}/{entry.name}"


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether what was found in a folder is one, too; a link in a circle is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_regular(entry: os.DirEntry[str]) -> bool:
    try:
        if entry.is_file():
            return True
        what = files.irregular(entry.stat().st_mode)
    except OSError:
        return True  # a link to nothing or to itself: told when it is decoded
    _warn(entry.path, what)
    return False


@functools.cache
def _warn(path: str, what: str) -> None:
    log.warning("left out: %s is %s, no regular file", path, what)  # once, however often a command looks here


@contextlib.contextmanager
def opened(source: str | Path | IO[bytes]) -> Iterator[Image.Image]:
    """Open an image, not yet decoded, of one of the formats that tlopt reads.

    Args:
        source: A regular file, or the content of one as an open stream.

    Raises:
        IrregularFileError: The path is that of a pipe, a device or the like, or the file is too large.
        UnidentifiedImageError: It is of another format.
        DecompressionBombError: It has more pixels than Pillow's limit, twice `Image.MAX_IMAGE_PIXELS`.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(source, str | Path):
            source = stack.enter_context(files.open_regular(source, limit=files.IMAGE_LIMIT))
        yield stack.enter_context(Image.open(source, formats=formats()))


def read_image(path: str | Path | IO[bytes], *, at_least: int = 0) -> Image.Image:
    """Read and fully decode an image file.

    Args:
        path: The file, or its content as an open stream.
        at_least: Decode a large JPEG at 1/2, 1/4 or 1/8 of its size, both sides at least this many
            pixels, which is several times as fast; 0 for the full size.

    Raises:
        ImagesError: The file is missing, empty, truncated, no regular file, or no image of a known format.
    """
    with _told(path), opened(path) as image:
        if at_least and image.format == "JPEG" and image.mode == "RGB":
            image.draft("RGB", (at_least, at_least))
        image.load()
        return image


def expect_header(path: str | Path) -> None:
    """Refuse a file that does not begin as an image does; the rest of it may still be damaged.

    Raises:
        ImagesError: The file is missing, empty, no regular file, or no image of a known format.
    """
    with _told(path), opened(path):
        pass


@contextlib.contextmanager
def _told(path: str | Path | IO[bytes]) -> Iterator[None]:
    """Turn whatever is wrong with an image inside the block into an `ImagesError`."""
    try:
        yield
    except Exception as error:
        # Pillow's decoders have no common error: damaged files raise OSError, SyntaxError, ValueError,
        # EOFError, RuntimeError, TypeError, struct.error and others.
        if isinstance(error, FileNotFoundError):
            problem = "there is no such file"
        elif isinstance(error, files.IrregularFileError):
            problem = f"it {error.reason}"
        elif isinstance(error, UnidentifiedImageError):
            known = ", ".join(name for name in formats() if name != "MPO")
            problem = "it is empty" if _empty(path) else f"its content is none of {known}"
        else:
            problem = reason(error)
        named = path if isinstance(path, str | Path) else "The content"
        raise ImagesError(f"{named} cannot be read as an image: {problem}.") from error


def _empty(path: str | Path | IO[bytes]) -> bool:
    try:
        return isinstance(path, str | Path) and Path(path).stat().st_size == 0
    except OSError:
        return False
