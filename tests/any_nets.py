"""Small networks that are no classifiers, written node by node: a detector, a segmenter, an embedder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import tlopt
from tlopt.artifact import Artifact

HIGH, WIDE = 16, 24


class AnyNet:
    """A backbone of two convolutions on float32 (n, channels, 16, 24); heads are added and named as outputs."""

    def __init__(self, *, channels=3, opset=17, image="x"):
        self.random, self.nodes, self.constants, self.outputs = np.random.default_rng(0), [], [], []
        self.channels, self.opset, self.image = channels, opset, image
        first = self.add("Relu", self.conv(image, channels, 8, strides=[2, 2]))
        self.deep = self.add("Relu", self.conv(first, 8, 8, strides=[2, 2]))

    def constant(self, values, dtype=np.float32):
        name = f"k{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def add(self, kind, *inputs, out="", **attributes):
        out = out or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=f"n{len(self.nodes)}", **attributes))
        return out

    def conv(self, tensor, before, after, *, kernel=3, **attributes):
        weight = self.random.normal(0, 1 / np.sqrt(before * kernel**2), (after, before, kernel, kernel))
        bias = self.constant(self.random.normal(0, 0.2, after))
        return self.add("Conv", tensor, self.constant(weight), bias, pads=[kernel // 2] * 4, **attributes)

    def output(self, tensor, name, type_=TensorProto.FLOAT, shape=None):
        """Give a tensor the name of an output."""
        self.add("Identity", tensor, out=name)
        self.outputs.append(helper.make_tensor_value_info(name, type_, shape))
        return self

    def rows(self, count):
        """Return a head's (n, 24, count): a row for each of the 4 x 6 places."""
        tensor = self.add("Transpose", self.conv(self.deep, 8, count, kernel=1), perm=[0, 2, 3, 1])
        return self.add("Reshape", tensor, self.constant([0, 24, count], np.int64))

    def save(self, file, *, shape=None, type_=TensorProto.FLOAT):
        shape = shape or ("n", self.channels, HIGH, WIDE)
        inputs = [helper.make_tensor_value_info(self.image, type_, shape)]
        for value in self.outputs:
            if not value.type.tensor_type.HasField("shape"):
                value.type.tensor_type.shape.SetInParent()
                ranks = {"mask": 4, "boxes": 3, "scores": 3, "embedding": 2, "classes": 2, "kept": 2, "best": 1}
                value.type.tensor_type.shape.dim.extend(
                    onnx.TensorShapeProto.Dimension() for _ in range(ranks[value.name])
                )
        graph = helper.make_graph(self.nodes, "net", inputs, self.outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        onnx.save(model, file)
        return file


def detector(**how):
    """Boxes (n, 24, 4) of 0 to 24 pixels, scores (n, 24, 2) of 0 to 1, and classes (n, 24) as whole numbers."""
    net = AnyNet(**how)
    boxes = net.add("Mul", net.add("Sigmoid", net.rows(4)), net.constant(float(WIDE)))
    scores = net.add("Sigmoid", net.rows(2))
    classes = net.add("ArgMax", scores, axis=2, keepdims=0)
    return net.output(boxes, "boxes").output(scores, "scores").output(classes, "classes", TensorProto.INT64)


def choosing(**how):
    """A detector with non-maximum suppression inside: kept (rows, 5) of box and score; their number varies."""
    net = AnyNet(**how)
    corner = net.add("Mul", net.add("Sigmoid", net.rows(2)), net.constant(float(WIDE)))
    boxes = net.add("Concat", corner, net.add("Add", corner, net.constant(4.0)), axis=2)
    scores = net.add("Sigmoid", net.rows(1))
    found = net.add(
        "NonMaxSuppression", boxes, net.add("Transpose", scores, perm=[0, 2, 1]), net.constant(24, np.int64),
        net.constant([0.3]), net.constant([0.5]),
    )  # fmt: skip
    places = net.add("Gather", found, net.constant(2, np.int64), axis=1)
    rows = net.add("Reshape", net.add("Concat", boxes, scores, axis=2), net.constant([24, 5], np.int64))
    return net.output(net.add("Gather", rows, places, axis=0), "kept")


def segmenter(**how):
    """A mask (n, 1, 16, 24) of 0 to 1, through a Resize."""
    net = AnyNet(**how)
    small = net.conv(net.deep, 8, 1, kernel=1)
    scales = net.constant([1, 1, 4, 4])
    return net.output(net.add("Sigmoid", net.add("Resize", small, "", scales, mode="linear")), "mask")


def embedder(**how):
    """A vector (n, 8) of length 1."""
    net = AnyNet(**how)
    flat = net.add("Flatten", net.add("GlobalAveragePool", net.deep), axis=1)
    return net.output(net.add("LpNormalization", flat, axis=1), "embedding")


def brought(net, folder: Path, name="art", **settings) -> Artifact:
    """Import a network; its pixels are fed as 0..1."""
    file = net.save(folder / f"{name}.onnx", **settings.pop("saved", {}))
    plain = {"task": "any", "preset": "0..1"}
    return tlopt.import_model(file, folder / name, **{**plain, **settings})


def images(folder: Path, count=12) -> Path:
    """Write a flat folder of images of several sizes."""
    folder.mkdir()
    random = np.random.default_rng(1)
    for place in range(count):
        coarse = random.integers(0, 256, (4, 6, 3), dtype=np.uint8)
        sides = (36 + place, 24 + 2 * place)
        Image.fromarray(coarse).resize(sides, Image.Resampling.BICUBIC).save(folder / f"{place:02}.png")
    return folder
