"""Three classes of colour photos and networks that tell them apart by construction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tlopt.artifact import Artifact, Card, ImagesRef, draft, seal
from tlopt.images import scan
from tlopt.preprocess import Preprocess

CLASSES = ("blue", "green", "red")
SIZE = 16


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
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _photos(tmp_path_factory.mktemp("photos"), 20, 30)


@pytest.fixture(scope="session")
def card(photos: Path) -> Card:
    return Card(
        kind="onnx",
        model="test:tiny",
        precision="fp32",
        classes=CLASSES,
        preprocess=Preprocess(size=SIZE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        images=ImagesRef(path=str(photos), digest=scan(photos).digest, val=0.2, test=0.3, seed=0),
    )


def onnx_model(weight: np.ndarray) -> onnx.ModelProto:
    """Return a network of a 1x1 convolution and a mean over the image; weight is (3, 3)."""
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "weight"], ["mixed"], name="mix"),
            helper.make_node("GlobalAveragePool", ["mixed"], ["pooled"], name="pool"),
            helper.make_node("Flatten", ["pooled"], ["logits"], name="flatten"),
        ],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weight[:, :, None, None].astype(np.float32), "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_onnx(folder: Path, card: Card, weight: np.ndarray) -> Artifact:
    with draft(folder) as scratch:
        onnx.save(onnx_model(weight), scratch / "model.onnx")
        seal(scratch, card)
    return Artifact.load(folder)


RIGHT = np.eye(3)[::-1].copy()  # the classes are in alphabetical order: blue, green, red


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, card: Card) -> Artifact:
    """An ONNX artifact that answers with the brightest colour."""
    return write_onnx(tmp_path_factory.mktemp("artifacts") / "tiny", card, RIGHT)


@pytest.fixture(scope="session")
def biased(tmp_path_factory: pytest.TempPathFactory, card: Card) -> Artifact:
    """An ONNX artifact that sees too little green."""
    return write_onnx(tmp_path_factory.mktemp("artifacts") / "biased", card, RIGHT * [[1], [0.5], [1]])


class Tiny(torch.nn.Module):
    """The same network in torch."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Conv2d(3, 3, 1, bias=False)
        self.mix.weight.data = torch.from_numpy(RIGHT[:, :, None, None].astype(np.float32))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mixed: torch.Tensor = self.mix(images)
        return mixed.mean((2, 3))
