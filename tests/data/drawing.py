from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed, width=80, height=64):
    """A photo-like picture: large shapes, and detail of its own."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    coarse = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    fine = random.integers(-40, 40, (height // 2, width // 2, 1)).repeat(2, 0).repeat(2, 1)
    return Image.fromarray(np.clip(coarse + fine, 0, 255).astype(np.uint8))


def draw(path: Path, seed, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(path, **options)
    return path
