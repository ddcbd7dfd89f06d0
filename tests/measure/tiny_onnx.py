"""Small networks written out by hand, whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tlopt.artifact import Artifact, seal
from tlopt.cards.card import Card
from tlopt.publishing import draft

CLASSES = ("blue", "green", "red")
SIZE = 16
RIGHT = np.eye(3)[::-1].copy()  # the classes are in alphabetical order: blue, green, red


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
