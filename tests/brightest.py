"""An ONNX artifact of a tiny network, made without torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from tiny_graphs import Builder, mobile

from tlopt.artifact import Artifact, seal
from tlopt.cards.card import Card
from tlopt.cards.details import OnnxDetails
from tlopt.preprocess import Preprocess
from tlopt.publishing import draft

CLASSES = ("ant", "bee", "red kite", "Ölkäfer", "fox, grey")


def write_onnx(folder: Path, *, model: onnx.ModelProto | None = None, **changes: Any) -> Artifact:
    """Write an artifact of five classes for 16 px images, with some fields of its card changed."""
    builder = Builder()
    with draft(folder, force=True) as scratch:
        onnx.save(model or builder.model(mobile(builder)), scratch / "model.onnx")
        preprocess = Preprocess(size=16, crop_ratio=0.9, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
        card = Card(
            kind="onnx", model="test:tiny", precision="fp32", classes=CLASSES, preprocess=preprocess,
            details=OnnxDetails(opset=18),
        )  # fmt: skip
        seal(scratch, replace(card, **changes))
    return Artifact.load(folder)


def write_fixed(folder: Path, batch: int) -> Artifact:
    """Write the same network with a batch of its own: each run takes so many images."""
    builder = Builder()
    model = builder.model(mobile(builder))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    return write_onnx(folder, model=model, details=OnnxDetails(opset=18, fixed_batch=batch))
