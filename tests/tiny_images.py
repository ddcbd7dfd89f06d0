"""Images that a tiny network learns to tell apart at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLORS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}


def write_photos(root: Path, *, per_class: int = 16, size: tuple[int, int] = (44, 36), seed: int = 0) -> Path:
    """Write photos of noisy colors into class folders: a problem that a tiny network learns at once."""
    random = np.random.default_rng(seed)
    for name, color in COLORS.items():
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = np.clip(np.array(color) + random.normal(0, 40, (size[1], size[0], 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i:02}.png")
    return root
