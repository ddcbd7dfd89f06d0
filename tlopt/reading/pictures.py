"""Images the right way up, and in RGB."""

from __future__ import annotations

import logging

import numpy as np
from PIL import ExifTags, Image

from tlopt.errors import ImagesError

log = logging.getLogger(__name__)

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) to 8; 1 where it is missing or damaged."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        # Pillow's EXIF parser raises whatever a damaged block makes it stumble over.
        log.debug("damaged EXIF data", exc_info=True)
        return 1
    return value if value in _UPRIGHT else 1


def upright(image: Image.Image) -> Image.Image:
    """Return the image turned as its EXIF orientation says."""
    return turned(image, orientation(image))


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """Return the image turned as this EXIF orientation, 1 to 8, says."""
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the image as 8-bit RGB: transparency over white, 16-bit grey scaled to 8 bits.

    Raises:
        ImagesError: The image's mode has no conversion to RGB.
    """
    transparent = "transparency" in image.info
    if image.mode == "RGB" and not transparent:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bit(image)).convert("RGB")
    try:
        if transparent or image.mode in ("RGBA", "LA", "PA", "RGBa"):
            layered = image.convert("RGBA")
            white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, layered).convert("RGB")
        return image.convert("RGB")
    except ValueError as error:
        raise ImagesError(f"An image of mode {image.mode} cannot be converted to RGB.") from error


def _eight_bit(image: Image.Image) -> np.ndarray:
    """Return grey of 16 or 32 bits or floats as uint8 (h, w)."""
    grey: np.ndarray = np.nan_to_num(np.asarray(image, dtype=np.float32))
    brightest = grey.max(initial=0)
    if image.mode.startswith("I;16") or brightest > 255:
        # 16-bit files keep their full scale; others are taken as 8-bit unless they exceed it.
        grey = grey / 257
    elif image.mode == "F" and brightest <= 1:
        grey = grey * 255
    rounded: np.ndarray = np.clip(np.round(grey), 0, 255).astype(np.uint8)
    return rounded
