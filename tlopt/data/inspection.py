"""What one image file is: readable or not, its format, size, mode and rotation, and a thumbnail."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from tlopt.errors import ImagesError
from tlopt.images import ImageFolder, ordered
from tlopt.progress import track
from tlopt.reading import files
from tlopt.reading.image_files import opened, read_image
from tlopt.reading.pictures import orientation, to_rgb, turned

SIDE = 32  # of the thumbnail, pixels


@dataclass(frozen=True, kw_only=True, eq=False)
class Inspection:
    """What one image file is.

    Args:
        file: Path relative to the folder.
        content: The sha256 of the file.
        size_bytes: Of the file.
        problem: Why it cannot be read; empty if it can.
        format: Pillow's name of the format, "JPEG".
        mode: Pillow's name of the pixel type, "CMYK".
        width: Pixels, upright.
        height: Pixels, upright.
        orientation: EXIF orientation, 1 (upright) to 8.
        transparent: Whether it has an alpha channel or a transparent color.
        animated: Whether it holds more than one picture; only the first is used.
        thumbnail: uint8 (32, 32), grey, upright; zeros if it cannot be read.
    """

    file: str
    content: str = ""
    size_bytes: int = 0
    problem: str = ""
    format: str = ""
    mode: str = ""
    width: int = 0
    height: int = 0
    orientation: int = 1
    transparent: bool = False
    animated: bool = False
    thumbnail: np.ndarray = field(default_factory=lambda: np.zeros((SIDE, SIDE), np.uint8), repr=False)


def inspect_all(folder: ImageFolder) -> list[Inspection]:
    """Inspect every image of a folder, in order; each file is read once."""
    found = ordered(lambda file: _inspect(os.fspath(folder.path), file), folder.files, chunk=8)
    inspections = list(track(found, label="Inspecting images", total=len(folder)))
    # Splitting needs the contents' hashes too: they are known now.
    folder.__dict__.setdefault("hashes", tuple(inspection.content for inspection in inspections))
    return inspections


def _inspect(root: str, file: str) -> Inspection:
    path = os.path.join(root, file)
    try:
        data = files.read_bytes(path, limit=files.IMAGE_LIMIT)
    except OSError as error:
        return Inspection(file=file, content=f"unreadable {file}", problem=str(error.strerror))
    content = hashlib.sha256(data).hexdigest()
    try:
        return _look(file, content, data)
    except ImagesError as error:
        reason = error.message.rpartition("as an image: ")[2].rstrip(".")
        return Inspection(file=file, content=content, size_bytes=len(data), problem=reason)


def _look(file: str, content: str, data: bytes) -> Inspection:
    if not data:
        raise ImagesError("it is empty")
    image = read_image(io.BytesIO(data), at_least=2 * SIDE)
    with opened(io.BytesIO(data)) as header:
        full, animated = header.size, header.format != "MPO" and _animated(header)
    turn = orientation(image)
    # Small first: turning and converting a large image would take longer than decoding it.
    small = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR) if image.mode in ("RGB", "L") else to_rgb(image)
    grey = turned(small, turn).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    width, height = full if turn < 5 else full[::-1]
    return Inspection(
        file=file,
        content=content,
        size_bytes=len(data),
        format=image.format or "",
        mode=image.mode,
        width=width,
        height=height,
        orientation=turn,
        transparent=image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info,
        animated=animated,
        thumbnail=np.array(grey),
    )


def _animated(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except (OSError, EOFError, SyntaxError, ValueError):
        return False  # the first picture can be read, those after it not
