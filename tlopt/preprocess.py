"""From an image file to the network's input: the one implementation that every part of tlopt uses."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from tlopt.errors import ImagesError, SettingError

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Layout = Literal["nchw", "nhwc"]
Channels = Literal["rgb", "bgr"]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How an image file becomes the network's input.

    The EXIF rotation is applied, the image converted to RGB, its shorter side resized (antialiased,
    Pillow) to ``size / crop_ratio``, the central ``size`` x ``size`` pixels cut out, and each pixel
    p in 0..255 becomes ``(p / 255 - mean) / std``.

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
        if self.size < 1:
            raise SettingError(f"The image size must be at least 1 pixel, got {self.size}.")
        if not 0 < self.crop_ratio <= 1:
            raise SettingError(f"The crop ratio must be above 0 and at most 1, got {self.crop_ratio:g}.")
        if self.interpolation not in _RESAMPLING:
            raise SettingError(f"Unknown interpolation {self.interpolation!r}.", hint=f"Known: {', '.join(_RESAMPLING)}.")
        if any(s <= 0 for s in self.std):
            raise SettingError(f"Each std must be above 0, got {self.std}.")

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
        """Return the cropped pixels: uint8 (size, size, 3), RGB, 0..255."""
        return self.crop(self.resized(image))

    def resized(self, image: Image.Image) -> Image.Image:
        """Return the upright RGB image with its shorter side at ``size / crop_ratio`` pixels."""
        image = to_rgb(ImageOps.exif_transpose(image))
        side = math.floor(self.size / self.crop_ratio)
        width, height = image.size
        scale = side / min(width, height)
        target = (max(self.size, round(width * scale)), max(self.size, round(height * scale)))
        return image if target == image.size else image.resize(target, _RESAMPLING[self.interpolation])

    def crop(self, image: Image.Image) -> np.ndarray:
        """Return the central crop of a resized image: uint8 (size, size, 3)."""
        left = round((image.width - self.size) / 2)
        top = round((image.height - self.size) / 2)
        return np.asarray(image.crop((left, top, left + self.size, top + self.size)))

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
            return pixels.astype(np.float32) * scale + shift
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
        return self.normalize(pixels[None])[0]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Preprocess:
        """Rebuild from `to_dict`."""
        return cls(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the image as 8-bit RGB: transparency over white, 16-bit grey scaled to 8 bits."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image, dtype=np.float32)
        # 16-bit files keep their full scale; 32-bit ones are taken as 8-bit unless they exceed it.
        if image.mode.startswith("I;16") or grey.max(initial=0) > 255:
            grey = grey / 257
        return Image.fromarray(np.clip(np.round(grey), 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layered).convert("RGB")
    return image.convert("RGB")


def read_image(path: str | Path) -> Image.Image:
    """Read and fully decode an image file.

    Raises:
        ImagesError: The file is missing, empty, truncated, or no image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ImagesError(f"{path} cannot be read as an image: {reason}") from error
