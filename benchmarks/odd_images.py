"""Odd image files: every color type of PNG, JPEG in its variants, every orientation, sides from 1 to 4,000 pixels.

The tests and benchmarks/cpp.py use them. PNG files are written here byte by byte: Pillow writes few of the color types.
"""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

GREY, RGB, INDEXED, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
_CHANNELS = {GREY: 1, RGB: 3, INDEXED: 1, GREY_ALPHA: 2, RGBA: 4}
# First column and row, and steps of them, of the seven passes of an interlaced file (PNG specification, section 8).
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_PNG_KINDS = (
    *((GREY, depth) for depth in (1, 2, 4, 8, 16)),
    *((INDEXED, depth) for depth in (1, 2, 4, 8)),
    *((color, depth) for color in (RGB, GREY_ALPHA, RGBA) for depth in (8, 16)),
)
_SIDES = (1, 2, 3, 7, 31, 32, 33, 64, 100, 255, 640, 1023, 2048, 4000)


# Width, height, orientation -> suffix, name, content.
Maker = Callable[[int, int, int], tuple[str, str, bytes]]


@dataclass(frozen=True, kw_only=True)
class Odd:
    """An image file.

    Args:
        name: What it is, with its suffix.
        content: Its bytes.
        lossless: Whether every decoder gives the same pixels.
    """

    name: str
    content: bytes
    lossless: bool


def odd_images(count: int, *, seed: int = 0, largest: int = 4000) -> Iterator[Odd]:
    """Yield so many odd image files; the first fifty or so have every color type and every orientation.

    Args:
        count: How many.
        seed: Of content and sizes.
        largest: Longest side, pixels.
    """
    random = np.random.default_rng(seed)
    kinds = itertools.cycle([*_pngs(random), *_jpegs(random)])
    for number, make in zip(range(count), kinds, strict=False):
        suffix, describe, content = make(*_size(random, number, largest), number % 8 + 1)
        yield Odd(name=f"{number:03}-{describe}.{suffix}", content=content, lossless=suffix == "png")


def _size(random: np.random.Generator, number: int, largest: int) -> tuple[int, int]:
    """Return width and height: now one of the telling sides, now any, and at times a strip."""
    sides = [side for side in _SIDES if side <= largest]
    if number % 11 == 10:
        strip = (int(random.integers(1, 4)), largest)
        return strip if number % 2 else strip[::-1]
    if number % 3 == 0:
        return int(random.choice(sides)), int(random.choice(sides))
    width, height = (int(np.exp(random.uniform(0, np.log(largest)))) for _ in range(2))
    return width, height


def _picture(random: np.random.Generator, width: int, height: int, channels: int) -> np.ndarray:
    """Return waves, edges and noise: float (height, width, channels), 0..1."""
    x, y = np.arange(width)[None, :, None], np.arange(height)[:, None, None]
    speed, phase = random.uniform(0.01, 1.5, (2, 1, 1, channels)), random.uniform(0, 6, channels)
    waves = np.sin(x * speed[0] + phase) * np.cos(y * speed[1]) / 2 + 0.5
    edges = ((x // max(1, width // 5) + y // max(1, height // 3)) % 2) * 0.5
    found: np.ndarray = np.clip(0.6 * waves + 0.4 * edges + random.normal(0, 0.08, waves.shape), 0, 1)
    return found


# PNG


def _pngs(random: np.random.Generator) -> list[Maker]:
    """Return makers of PNG files: each color type and depth, with and without transparency, some interlaced."""

    def maker(color: int, depth: int, clear: bool, number: int) -> Maker:
        def make(width: int, height: int, orientation: int) -> tuple[str, str, bytes]:
            interlaced = number % 3 == 1
            samples = np.round(_picture(random, width, height, _CHANNELS[color]) * (2**depth - 1)).astype(np.uint16)
            if color in (GREY_ALPHA, RGBA):  # wholly transparent and wholly opaque parts, too
                alpha = samples[..., -1].astype(np.int64)
                samples[..., -1] = np.clip(alpha * 2 - 2 ** (depth - 1), 0, 2**depth - 1)
            palette = random.integers(0, 256, (2**depth - (depth > 2), 3), np.uint8) if color == INDEXED else None
            if palette is not None:
                samples = np.minimum(samples, len(palette) - 1)
            transparent = _transparent(random, color, depth, samples) if clear else None
            chunks, told = _oriented(number, orientation)
            content = png(
                samples, color=color, depth=depth, palette=palette, transparent=transparent, interlaced=interlaced,
                chunks=chunks,
            )  # fmt: skip
            words = (f"color{color}", f"{depth}bit", "clear" if clear else "", "interlaced" if interlaced else "", told)
            return "png", "-".join((*filter(None, words), f"{width}x{height}", f"o{orientation}")), content

        return make

    kinds = [(kind, clear) for kind in _PNG_KINDS for clear in ((False, True) if kind[0] < GREY_ALPHA else (False,))]
    return [maker(*kind, clear, number) for number, (kind, clear) in enumerate(kinds)]


def _transparent(random: np.random.Generator, color: int, depth: int, samples: np.ndarray) -> bytes:
    """Return the content of tRNS: a color that occurs, or an alpha for each color of the palette."""
    if color == INDEXED:
        alphas: np.ndarray = random.integers(0, 256, 2**depth - 1, np.uint8)
        return alphas.tobytes()
    height, width = samples.shape[:2]
    chosen = samples[random.integers(height), random.integers(width)]
    if color == GREY and depth in (2, 4):
        chosen = chosen * 0
    return struct.pack(f">{len(chosen)}H", *(int(value) for value in chosen))


def png(
    samples: np.ndarray,
    *,
    color: int,
    depth: int,
    palette: np.ndarray | None = None,
    transparent: bytes | None = None,
    interlaced: bool = False,
    chunks: tuple[tuple[bytes, bytes], ...] = (),
) -> bytes:
    """Return a PNG file.

    Args:
        samples: Integers (height, width, channels).
        color: Its color type, as the specification counts them.
        depth: Bits of a sample.
        palette: uint8 (n, 3).
        transparent: Content of tRNS.
        interlaced: Store it in seven passes.
        chunks: More chunks, kind and content, before the pixels.
    """
    height, width = samples.shape[:2]
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    data = b"".join(_lines(samples[top::down, left::right], depth) for left, top, right, down in passes)
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlaced))
    parts = [(b"IHDR", head)]
    parts += [] if palette is None else [(b"PLTE", palette.tobytes())]
    parts += [] if transparent is None else [(b"tRNS", transparent)]
    parts += [*chunks, (b"IDAT", zlib.compress(data, 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in parts)


def _lines(samples: np.ndarray, depth: int) -> bytes:
    """Return the lines of a pass, unfiltered."""
    height, width = samples.shape[:2]
    if not height or not width:
        return b""
    flat = samples.reshape(height, -1)
    if depth == 16:
        lines = flat.astype(">u2").view(np.uint8)
    elif depth == 8:
        lines = flat.astype(np.uint8)
    else:
        bits = (flat[:, :, None] >> np.arange(depth)[::-1]) & 1
        lines = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    return np.concatenate([np.zeros((height, 1), np.uint8), lines], axis=1).tobytes()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _oriented(number: int, orientation: int) -> tuple[tuple[tuple[bytes, bytes], ...], str]:
    """Return chunks that tell the orientation, in one of the four ways that are in use, and the way's name."""
    ways = ("exif", "xmp", "profile", "untold")
    way = ways[number % len(ways)]
    if way == "exif":
        return ((b"eXIf", exif(orientation, big=number % 2 == 0)),), way
    if way == "xmp":
        packed = zlib.compress(_xmp(orientation))
        return ((b"iTXt", b"XML:com.adobe.xmp\0\x01\0\0\0" + packed),), way
    if way == "profile":
        digits = (b"Exif\0\0" + exif(orientation)).hex().encode()
        lines = b"\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
        text = b"\nexif\n%8d\n%s\n" % (len(digits) // 2, lines)
        return ((b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)),), way
    return (), way


def exif(orientation: int, *, big: bool = False, kind: int = 3) -> bytes:
    """Return EXIF data with an orientation.

    Args:
        orientation: Its value.
        big: Whether the first byte of a number is its most significant one.
        kind: Type of the entry, as TIFF counts them: 3 for 16 bits, 4 for 32 bits, 5 for a fraction.
    """
    order = ">" if big else "<"
    entries = [struct.pack(f"{order}HHI4s", 271, 2, 4, b"odd\0")]
    after = 8 + 2 + 2 * 12 + 4
    value = {3: struct.pack(f"{order}HH", orientation, 0), 4: struct.pack(f"{order}I", orientation)}
    entries.append(struct.pack(f"{order}HHI", 274, kind, 1) + value.get(kind, struct.pack(f"{order}I", after)))
    head = struct.pack(f"{order}2sHI", b"MM" if big else b"II", 42, 8)
    data = struct.pack(f"{order}II", orientation * 3, 3)
    return head + struct.pack(f"{order}H", 2) + b"".join(entries) + bytes(4) + data


def _xmp(orientation: int) -> bytes:
    shapes = b'<rdf:Description tiff:Orientation="%d"/>', b"<tiff:Orientation>%d</tiff:Orientation>"
    return b"<x:xmpmeta>" + shapes[orientation % 2] % orientation + b"</x:xmpmeta>"


# JPEG


def _jpegs(random: np.random.Generator) -> list[Maker]:
    """Return makers of JPEG files: grey, three kinds of RGB, CMYK and YCCK, each also progressive or with restarts."""
    variants: list[tuple[str, str, dict[str, object]]] = [
        ("grey", "L", {}),
        ("progressive grey", "L", {"progressive": True}),
        ("420", "RGB", {"subsampling": "4:2:0"}),
        ("422", "RGB", {"subsampling": "4:2:2"}),
        ("444", "RGB", {"subsampling": "4:4:4"}),
        ("rgb", "RGB", {"keep_rgb": True}),
        ("progressive 420", "RGB", {"progressive": True, "subsampling": "4:2:0"}),
        ("restarts", "RGB", {"restart_marker_blocks": 3, "subsampling": "4:2:0"}),
        ("coarse", "RGB", {"quality": 12}),
        ("optimized", "RGB", {"optimize": True, "quality": 97}),
        ("cmyk", "CMYK", {}),
        ("ycck", "CMYK", {}),
        ("progressive cmyk", "CMYK", {"progressive": True}),
        ("xmp", "RGB", {}),
        ("long", "RGB", {}),
        ("fraction", "RGB", {}),
        ("damaged exif", "RGB", {}),
        ("420 once more", "RGB", {"subsampling": "4:2:0", "quality": 60}),
    ]

    def maker(number: int, name: str, mode: str, options: dict[str, object]) -> Maker:
        def make(width: int, height: int, orientation: int) -> tuple[str, str, bytes]:
            channels = {"L": 1, "RGB": 3, "CMYK": 4}[mode]
            pixels = np.round(_picture(random, width, height, channels) * 255).astype(np.uint8)
            image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels, mode)
            stream = io.BytesIO()
            image.save(stream, "JPEG", **{"quality": 85, **options, **_said(number, name, orientation)})
            content = stream.getvalue()
            if name == "ycck":  # the same numbers, said to be of another color space
                at = content.index(b"Adobe") + 11
                content = content[:at] + b"\x02" + content[at + 1 :]
            return "jpg", f"{name.replace(' ', '-')}-{width}x{height}-o{orientation}", content

        return make

    return [maker(number, *variant) for number, variant in enumerate(variants)]


def _said(number: int, name: str, orientation: int) -> dict[str, object]:
    """Return how a JPEG file tells its orientation, as settings of Pillow's."""
    if name == "xmp":
        return {"xmp": _xmp(orientation)}
    data = exif(orientation, big=number % 2 == 0, kind={"long": 4, "fraction": 5}.get(name, 3))
    if name == "damaged exif":
        data = data[:15]
    return {"exif": b"Exif\0\0" + data}
