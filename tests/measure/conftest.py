"""Three classes of colour photos and networks that tell them apart by construction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_onnx import CLASSES, RIGHT, SIZE, write_onnx

from tlopt.artifact import Artifact
from tlopt.cards.card import Card, ImagesRef
from tlopt.images import scan
from tlopt.preprocess import Preprocess


def _photos(root: Path, per_class: int, spread: float) -> Path:
    """Write noisy photos, each brightest in its class's colour, the more rarely the larger the spread."""
    random = np.random.default_rng(0)
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            color = random.normal(100, spread, 3)
            color[["red", "green", "blue"].index(name)] += 60
            pixels = np.clip(random.normal(color, 20, (20, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def swatches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _photos(tmp_path_factory.mktemp("photos"), 20, 30)


@pytest.fixture(scope="session")
def card(swatches: Path) -> Card:
    return Card(
        kind="onnx",
        model="test:tiny",
        precision="fp32",
        classes=CLASSES,
        preprocess=Preprocess(size=SIZE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        images=ImagesRef(path=str(swatches), digest=scan(swatches).digest, val=0.2, test=0.3, seed=0),
    )


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, card: Card) -> Artifact:
    """An ONNX artifact that answers with the brightest colour."""
    return write_onnx(tmp_path_factory.mktemp("artifacts") / "tiny", card, RIGHT)


@pytest.fixture(scope="session")
def biased(tmp_path_factory: pytest.TempPathFactory, card: Card) -> Artifact:
    """An ONNX artifact that takes green for its opposite."""
    return write_onnx(tmp_path_factory.mktemp("artifacts") / "biased", card, RIGHT * [[1], [-1], [1]])
