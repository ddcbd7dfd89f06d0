"""From an image file to the network's input: the one implementation that every part of tlopt uses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from tlopt.errors import SettingError
from tlopt.reading.image_files import read_image
from tlopt.reading.pictures import to_rgb, upright

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Layout = Literal["nchw", "nhwc"]
Channels = Literal["rgb", "bgr", "grey"]
# What becomes of an image whose sides have another ratio than the input's.
Fit = Literal["crop", "stretch", "pad"]
# What of an image is shown to the network: its center, that and its mirror image, the center and the
# corners, or all those and their mirror images.
Views = Literal["center", "flip", "five", "ten"]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# Fields that came after 0.1.0, and what they are where they change nothing.
LATER: Mapping[str, Any] = {"width": 0, "fit": "crop"}
_PADDING = 114  # grey level around a padded image, as detectors of the YOLO family are trained with
LARGEST = 16_384  # pixels of a side: no classifier sees that many, and memory would not hold a batch
_WIDEST = 64  # ratio of the sides above which the ends of a strip are cut off before it is resized


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How an image file becomes the network's input.

    The EXIF rotation is applied, the image converted to RGB, its shorter side resized (antialiased,
    Pillow) to ``size / crop_ratio``, the central ``size`` x ``size`` pixels cut out, and each pixel
    p in 0..255 becomes ``(p / 255 - mean) / std``. Pixel for pixel the evaluation transform of timm
    1.0 and torchvision (Resize, CenterCrop) on Pillow images.

    An input that is no square has a `width` of its own. Instead of cutting, `fit` may stretch the whole
    image to the input's sides, or shrink it and fill up what is left.

    Args:
        size: Side of the square input, pixels; the height where `width` is given.
        crop_ratio: Share of the resized image's shorter side that the crop keeps, 0..1.
        interpolation: Resampling filter.
        mean: Per channel, in the order of `channels`, on the 0..1 scale; of "grey" one.
        std: Per channel, in the order of `channels`, on the 0..1 scale; of "grey" one.
        layout: Axis order of the network's input.
        channels: Channel order of the network's input, or "grey" for one channel (ITU-R 601 luma).
        folded: The exported graph itself scales, normalizes and transposes: it takes uint8
            (n, size, size, 3) RGB and `normalize` returns pixels unchanged.
        width: Width of the input, pixels; 0 for that of a square.
        fit: Cut the center out ("crop"), "stretch" the image, or "pad" it with grey.
    """

    size: int
    crop_ratio: float = 0.875
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    layout: Layout = "nchw"
    channels: Channels = "rgb"
    folded: bool = False
    width: int = 0
    fit: Fit = "crop"

    def __post_init__(self) -> None:
        for side in self.sides:
            if not 1 <= side <= LARGEST:
                raise SettingError(f"The image size must be at least 1 pixel and at most {LARGEST}, got {side}.")
        if not 0 < self.crop_ratio <= 1:
            raise SettingError(f"The crop ratio must be above 0 and at most 1, got {self.crop_ratio:g}.")
        if max(self.sides) / self.crop_ratio > 2 * LARGEST:
            raise SettingError(f"The crop ratio is too small for {self.size} pixels, got {self.crop_ratio:g}.")
        if self.interpolation not in _RESAMPLING:
            raise SettingError(
                f"Unknown interpolation {self.interpolation!r}.", hint=f"Known: {', '.join(_RESAMPLING)}."
            )
        count, said = (1, "one number") if self.channels == "grey" else (3, "three numbers")
        if len(self.mean) != count or not all(map(math.isfinite, self.mean)):
            raise SettingError(f"The mean must be {said}, got {self.mean}.")
        if len(self.std) != count or not all(0 < s < math.inf for s in self.std):
            raise SettingError(f"The std must be {said} above 0, got {self.std}.")
        kinds: tuple[tuple[str, Any], ...] = ((self.layout, Layout), (self.channels, Channels), (self.fit, Fit))
        for value, kind in kinds:
            if value not in (known := get_args(kind)):
                raise SettingError(f"{value!r} is not one of {', '.join(known)}.")

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the input, pixels."""
        return self.size, self.width or self.size

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one network input, without the batch axis."""
        count = 1 if self.channels == "grey" else 3
        return (*self.sides, count) if self.layout == "nhwc" or self.folded else (count, *self.sides)

    @property
    def input_dtype(self) -> np.dtype[Any]:
        """Type of the network input: uint8 if preprocessing is folded into the graph, else float32."""
        return np.dtype(np.uint8 if self.folded else np.float32)

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Return the cropped pixels: uint8 (height, width, 3), RGB, 0..255; one channel of a "grey" input.

        Raises:
            ImagesError: The image's mode has no conversion to RGB.
        """
        return self.crop(self.resized(image))

    def resized(self, image: Image.Image) -> Image.Image:
        """Return the upright RGB (or grey) image, resized so that `crop` has but to cut its center out.

        Raises:
            ImagesError: The image's mode has no conversion to RGB.
        """
        image = to_rgb(upright(image))
        image = image.convert("L") if self.channels == "grey" else image
        if self.fit == "crop":
            image = _without_ends(image)
        target = self._target(*image.size)
        image = image if target == image.size else image.resize(target, _RESAMPLING[self.interpolation])
        return self._padded(image) if self.fit == "pad" else image

    def _target(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height that an image of this size is resized to."""
        high, wide = self.sides
        if self.fit == "stretch":
            return wide, high
        if self.fit == "pad":
            scale = min(wide / width, high / height)
            return max(1, min(wide, round(width * scale))), max(1, min(high, round(height * scale)))
        if high == wide:
            side = math.floor(high / self.crop_ratio)
            # torchvision cuts the fraction of the longer side off, and so do the networks trained with it.
            return (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
        least = math.floor(wide / self.crop_ratio), math.floor(high / self.crop_ratio)
        scale = max(least[0] / width, least[1] / height)
        return max(least[0], int(width * scale)), max(least[1], int(height * scale))

    def _padded(self, image: Image.Image) -> Image.Image:
        high, wide = self.sides
        whole = Image.new(image.mode, (wide, high), _PADDING if image.mode == "L" else (_PADDING,) * 3)
        whole.paste(image, ((wide - image.width) // 2, (high - image.height) // 2))
        return whole

    def views(self, image: Image.Image, which: Views = "center") -> np.ndarray:
        """Return one or several crops: uint8 (k, height, width, channels), the center's as `pixels` returns it first.

        "five" adds the corners of the resized image in the order top left, top right, bottom left,
        bottom right; "flip" and "ten" add the mirror images of all (A. Krizhevsky, I. Sutskever,
        G. Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", 2012).

        Raises:
            ImagesError: The image's mode has no conversion to RGB.
        """
        if which in ("center", "flip"):
            found = self.pixels(image)[None]
        else:
            resized, (high, wide) = self.resized(image), self.sides
            right, bottom = resized.width - wide, resized.height - high
            corners = ((0, 0), (right, 0), (0, bottom), (right, bottom))
            cut = [_pixels(resized.crop((x, y, x + wide, y + high))) for x, y in corners]
            found = np.stack([self.crop(resized), *cut])
        return np.concatenate([found, found[:, :, ::-1]]) if which in ("flip", "ten") else found

    def crop(self, image: Image.Image) -> np.ndarray:
        """Return the central crop of a resized image: uint8 (height, width, channels)."""
        high, wide = self.sides
        left = round((image.width - wide) / 2)
        top = round((image.height - high) / 2)
        return _pixels(image.crop((left, top, left + wide, top + high)))

    def normalize(self, pixels: np.ndarray) -> np.ndarray:
        """Turn pixels into the network's input.

        Args:
            pixels: uint8 (n, height, width, 3), RGB, 0..255; of one channel for a "grey" input.

        Returns:
            float32 of (n, 3, height, width), or (n, height, width, 3) for the layout "nhwc"; the same
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
        """Return scale and shift, float32 (channels,), with ``input = pixel * scale + shift``."""
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
        sides = f"{self.size} px" if self.sides == (self.size,) * 2 else f"{self.size} x {self.width} px"
        fit = {"crop": f"crop {self.crop_ratio:g}", "stretch": "stretched", "pad": "padded"}[self.fit]
        text = f"{sides}, {self.interpolation}, {fit}"
        if self.folded:
            return f"{text}, uint8 {'grey' if self.channels == 'grey' else 'RGB'} (preprocessing is inside)"
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return f"{text}, mean {mean}, std {std}, {self.channels.upper()}, {self.layout.upper()}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Preprocess:
        """Rebuild from `to_dict`."""
        return cls(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})


def _pixels(image: Image.Image) -> np.ndarray:
    """Return uint8 (height, width, channels)."""
    found = np.array(image)
    return found[:, :, None] if found.ndim == 2 else found


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
