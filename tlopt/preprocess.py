"""From an image file to the network's input: the one implementation that every part of tlopt uses."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import ExifTags, Image

from tlopt.errors import ImagesError, SettingError
from tlopt.reading.image_files import read_image

log = logging.getLogger(__name__)

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Layout = Literal["nchw", "nhwc"]
Channels = Literal["rgb", "bgr"]
# What of an image is shown to the network: its center, that and its mirror image, the center and the
# corners, or all those and their mirror images.
Views = Literal["center", "flip", "five", "ten"]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LARGEST = 16_384  # pixels of a side: no classifier sees that many, and memory would not hold a batch
_WIDEST = 64  # ratio of the sides above which the ends of a strip are cut off before it is resized


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How an image file becomes the network's input.

    The EXIF rotation is applied, the image converted to RGB, its shorter side resized (antialiased,
    Pillow) to ``size / crop_ratio``, the central ``size`` x ``size`` pixels cut out, and each pixel
    p in 0..255 becomes ``(p / 255 - mean) / std``. Pixel for pixel the evaluation transform of timm
    1.0 and torchvision (Resize, CenterCrop) on Pillow images.

    Args:
        size: Side of the square input, pixels.
        crop_ratio: Share of the resized image's shorter side that the crop keeps, 0..1.
        interpolation: Resampling filter.
        mean: Per channel, in the order of `channels`, on the 0..1 scale.
        std: Per channel, in the order of `channels`, on the 0..1 scale.
        layout: Axis order of the network's input.
        channels: Channel order of the network's input.
        folded: The exported graph itself scales, normalizes and transposes: it takes uint8
            (n, size, size, 3) RGB and `normalize` returns pixels unchanged.
    """

    size: int
    crop_ratio: float = 0.875
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    layout: Layout = "nchw"
    channels: Channels = "rgb"
    folded: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.size <= _LARGEST:
            raise SettingError(f"The image size must be at least 1 pixel and at most {_LARGEST}, got {self.size}.")
        if not 0 < self.crop_ratio <= 1:
            raise SettingError(f"The crop ratio must be above 0 and at most 1, got {self.crop_ratio:g}.")
        if self.size / self.crop_ratio > 2 * _LARGEST:
            raise SettingError(f"The crop ratio is too small for {self.size} pixels, got {self.crop_ratio:g}.")
        if self.interpolation not in _RESAMPLING:
            raise SettingError(
                f"Unknown interpolation {self.interpolation!r}.", hint=f"Known: {', '.join(_RESAMPLING)}."
            )
        if len(self.mean) != 3 or not all(map(math.isfinite, self.mean)):
            raise SettingError(f"The mean must be three numbers, got {self.mean}.")
        if len(self.std) != 3 or not all(0 < s < math.inf for s in self.std):
            raise SettingError(f"The std must be three numbers above 0, got {self.std}.")
        for value, known in ((self.layout, get_args(Layout)), (self.channels, get_args(Channels))):
            if value not in known:
                raise SettingError(f"{value!r} is not one of {', '.join(known)}.")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one network input, without the batch axis."""
        if self.layout == "nhwc" or self.folded:
            return (self.size, self.size, 3)
        return (3, self.size, self.size)

    @property
    def input_dtype(self) -> np.dtype[Any]:
        """Type of the network input: uint8 if preprocessing is folded into the graph, else float32."""
        return np.dtype(np.uint8 if self.folded else np.float32)

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Return the cropped pixels: uint8 (size, size, 3), RGB, 0..255.

        Raises:
            ImagesError: The image's mode has no conversion to RGB.
        """
        return self.crop(self.resized(image))

    def resized(self, image: Image.Image) -> Image.Image:
        """Return the upright RGB image with its shorter side at ``size / crop_ratio`` pixels.

        Raises:
            ImagesError: The image's mode has no conversion to RGB.
        """
        image = _without_ends(to_rgb(upright(image)))
        side = math.floor(self.size / self.crop_ratio)
        width, height = image.size
        # torchvision cuts the fraction of the longer side off, and so do the networks trained with it.
        target = (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
        return image if target == image.size else image.resize(target, _RESAMPLING[self.interpolation])

    def views(self, image: Image.Image, which: Views = "center") -> np.ndarray:
        """Return one or several crops: uint8 (k, size, size, 3), the center's as `pixels` returns it first.

        "five" adds the corners of the resized image in the order top left, top right, bottom left,
        bottom right; "flip" and "ten" add the mirror images of all (A. Krizhevsky, I. Sutskever,
        G. Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", 2012).

        Raises:
            ImagesError: The image's mode has no conversion to RGB.
        """
        if which in ("center", "flip"):
            found = self.pixels(image)[None]
        else:
            resized, size = self.resized(image), self.size
            right, bottom = resized.width - size, resized.height - size
            corners = ((0, 0), (right, 0), (0, bottom), (right, bottom))
            cut = [np.asarray(resized.crop((x, y, x + size, y + size))) for x, y in corners]
            found = np.stack([self.crop(resized), *cut])
        return np.concatenate([found, found[:, :, ::-1]]) if which in ("flip", "ten") else found

    def crop(self, image: Image.Image) -> np.ndarray:
        """Return the central crop of a resized image: uint8 (size, size, 3)."""
        left = round((image.width - self.size) / 2)
        top = round((image.height - self.size) / 2)
        return np.array(image.crop((left, top, left + self.size, top + self.size)))

    def normalize(self, pixels: np.ndarray) -> np.ndarray:
        """Turn pixels into the network's input.

        Args:
            pixels: uint8 (n, size, size, 3), RGB, 0..255.

        Returns:
            float32 of (n, 3, size, size), or (n, size, size, 3) for the layout "nhwc"; the same
            uint8 array if preprocessing is folded into the graph.
        """
        if self.folded:
            return pixels
        if self.channels == "bgr":
            pixels = pixels[..., ::-1]
        scale, shift = self.affine()
        if self.layout == "nhwc":
            rows: np.ndarray = pixels.astype(np.float32) * scale + shift
            return rows
        planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32)
        planes *= scale[:, None, None]
        planes += shift[:, None, None]
        return planes

    def affine(self) -> tuple[np.ndarray, np.ndarray]:
        """Return scale and shift, float32 (3,), with ``input = pixel * scale + shift``."""
        mean, std = np.asarray(self.mean, np.float64), np.asarray(self.std, np.float64)
        return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)

    def __call__(self, source: str | Path | Image.Image) -> np.ndarray:
        """Return one image as the network's input, without the batch axis.

        Raises:
            ImagesError: The file cannot be read as an image.
        """
        pixels = self.pixels(source if isinstance(source, Image.Image) else read_image(source))
        inputs: np.ndarray = self.normalize(pixels[None])[0]
        return inputs

    def summary(self) -> str:
        """Return how images are fed, in words."""
        text = f"{self.size} px, {self.interpolation}, crop {self.crop_ratio:g}"
        if self.folded:
            return f"{text}, uint8 RGB (preprocessing is inside)"
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return f"{text}, mean {mean}, std {std}, {self.channels.upper()}, {self.layout.upper()}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Preprocess:
        """Rebuild from `to_dict`."""
        return cls(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})


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


def _without_ends(image: Image.Image) -> Image.Image:
    """Cut a strip down to its middle, which is all that a central crop keeps.

    Resizing a strip of 1 x 30,000 pixels as a whole would take gigabytes.
    """
    width, height = image.size
    most = _WIDEST * min(width, height)
    if max(width, height) <= most:
        return image
    left, top = max(0, (width - most) // 2), max(0, (height - most) // 2)
    return image.crop((left, top, left + min(width, most), top + min(height, most)))
