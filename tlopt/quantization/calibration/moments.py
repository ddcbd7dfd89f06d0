"""Mean and covariance of what a weight is multiplied with, gathered over calibration images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from tlopt.graphs.view import View, attribute
from tlopt.quantization.calibration.activations import tapped
from tlopt.quantization.calibration.histogram import Histogram, mean_squares
from tlopt.quantization.grid import Scale
from tlopt.sessions import open_session

POSITIONS = 49  # fewest places of an image that are looked at, where it has as many
VALUES = 1 << 15  # values of an image that are looked at, if that is more
# Longest patch whose values are all held against one another: ResNet-50's. Time grows with the third power of it.
LONGEST = 4608
_PARTS = 64  # most parts that a longer one is split into


@dataclass
class Moments:
    """First and second moments of the input patches of one weight.

    Patches are looked at from a point near their mean. Were the products of the patches themselves summed up,
    the covariance would be a small difference of large numbers wherever an input hardly varies.
    Patches longer than `LONGEST` are split into equal parts, and values of different parts taken as independent.

    Attributes:
        total: float64 (groups, d), the sum of all patches; d = input channels of a group x kernel.
        rounded: float64 (groups, d), their sum after the input has been rounded to its grid.
        product: float64 (groups * parts, d / parts, d / parts), the sum of the outer products of the parts of their
            distances from `center`.
        count: Number of patches, each as far as its image weighs.
        center: float32 (groups, d), the mean of the patches that were added first.
    """

    total: np.ndarray
    rounded: np.ndarray
    product: np.ndarray
    count: float = 0.0
    center: np.ndarray | None = None

    @classmethod
    def empty(cls, groups: int, length: int) -> Moments:
        """Return moments of no patches."""
        count = parts(length)
        product = np.zeros((groups * count, length // count, length // count))
        return cls(np.zeros((groups, length)), np.zeros((groups, length)), product)

    def add(self, patches: np.ndarray, scale: Scale, weights: np.ndarray | None = None) -> None:
        """Add patches, float32 (groups, n, d), of an input that will have this scale.

        Args:
            patches: Of one image after another, as many of each.
            scale: Of the input.
            weights: What each image weighs; all the same if None.
        """
        if self.center is None:
            self.center = patches.mean(1, dtype=np.float64).astype(np.float32)
        rounded, away = scale.rounded(patches), patches - self.center[:, None, :]
        if weights is None or (weights == 1).all():
            self.count += patches.shape[1]
        else:
            each = np.repeat(weights, patches.shape[1] // len(weights)).astype(np.float32)[:, None]
            patches, rounded, away = patches * each, rounded * each, away * np.sqrt(each)
            self.count += float(each.sum(dtype=np.float64))
        self.total += patches.sum(1, dtype=np.float64)
        self.rounded += rounded.sum(1, dtype=np.float64)
        away = split(away, len(self.product))
        self.product += away.transpose(0, 2, 1) @ away

    @property
    def mean(self) -> np.ndarray:
        """Mean patch, float64 (groups, d)."""
        return self.total / self.count

    @property
    def rounded_mean(self) -> np.ndarray:
        """Mean patch after rounding, float64 (groups, d)."""
        return self.rounded / self.count

    def second(self, *, centered: bool) -> np.ndarray:
        """Return the covariance, or the second moment about zero: float64 (groups * parts, d / parts, d / parts).

        It takes the place of the products in memory.
        """
        second, self.product = self.product, np.empty((0, 0, 0))
        second /= self.count
        away = self.mean - (0 if self.center is None else self.center)
        away = away.reshape(len(second), -1)
        second -= away[:, :, None] * away[:, None, :]
        if not centered:
            mean = self.mean.reshape(len(second), -1)
            second += mean[:, :, None] * mean[:, None, :]
        return second


def parts(length: int) -> int:
    """Return into how many equal parts patches are split; 1 if there are no such parts."""
    return next((n for n in range(1, _PARTS + 1) if length % n == 0 and length // n <= LONGEST), 1)


def split(rows: np.ndarray, count: int) -> np.ndarray:
    """Return rows (groups, n, d) in parts: (count, n, d * groups / count), the parts of a group one after another."""
    groups, n, length = rows.shape
    if count == groups:
        return rows
    each = count // groups
    divided = rows.reshape(groups, n, each, length // each).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(divided).reshape(count, n, length // each)


def joined(divided: np.ndarray, groups: int) -> np.ndarray:
    """Return what `split` has split, as rows (groups, n, d)."""
    count, n, length = divided.shape
    if count == groups:
        return divided
    each = count // groups
    rows = divided.reshape(groups, each, n, length).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(rows).reshape(groups, n, each * length)


def supported(view: View, node: onnx.NodeProto) -> bool:
    """Whether the patches of a node's input can be gathered."""
    if not view.weight(node) or attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
        return False
    if node.op_type == "Conv":
        return view.rank(node.input[1]) == 4
    if node.op_type == "MatMul":
        return view.rank(node.input[1]) == 2
    plain = (
        attribute(node, "alpha", 1.0) == 1 and attribute(node, "beta", 1.0) == 1 and not attribute(node, "transA", 0)
    )
    return node.op_type == "Gemm" and plain


def size(view: View, node: onnx.NodeProto) -> tuple[int, int]:
    """Return the number of groups and the length of a patch."""
    shape = view.initializers[node.input[1]].dims
    if node.op_type == "Conv":
        return int(attribute(node, "group", 1)), int(np.prod(shape[1:]))
    return 1, int(shape[1] if node.op_type == "Gemm" and attribute(node, "transB", 0) else shape[0])


def gather(
    view: View,
    nodes: Iterable[onnx.NodeProto],
    batches: Iterable[np.ndarray],
    scales: Mapping[str, Scale],
    *,
    seed: int,
    histograms: Mapping[str, Histogram] | None = None,
) -> dict[str, Moments]:
    """Return the moments of each node's input patches, by the node's name.

    Args:
        view: Of a cleaned float graph.
        nodes: Some of its nodes, each `supported`.
        batches: Network inputs.
        scales: Of the nodes' inputs.
        seed: Of the choice of places in an image.
        histograms: Of the nodes' inputs; they tell which images weigh less than others.
    """
    random = np.random.default_rng(seed)
    chosen = list(nodes)
    moments = {node.name: Moments.empty(*size(view, node)) for node in chosen}
    source = view.inputs[0]
    computed = list(dict.fromkeys(n.input[0] for n in chosen if n.input[0] != source))
    runner = open_session(tapped(view.model, computed or view.outputs), arena=False)
    for inputs in batches:
        found = dict(zip(computed, runner.run(None, {source: inputs}), strict=False))
        found[source] = inputs
        for node in chosen:
            tensor, values = node.input[0], found[node.input[0]]
            seen = (histograms or {}).get(tensor)
            weights = None if seen is None else seen.weights_of(mean_squares(values, images=len(inputs)))
            moments[node.name].add(_patches(view, node, values, random), scales[tensor], weights)
        found.clear()  # or all tensors of one batch would wait until those of the next are there, too
    return moments


def _patches(view: View, node: onnx.NodeProto, values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return some of the patches that a weight meets: float32 (groups, n, d)."""
    groups, length = size(view, node)
    if node.op_type != "Conv":
        return values.reshape(1, -1, length)
    kernel = view.initializers[node.input[1]].dims[2:]
    strides = attribute(node, "strides", [1, 1])
    dilations = attribute(node, "dilations", [1, 1])
    top, left, bottom, right = attribute(node, "pads", [0, 0, 0, 0])
    n, channels, rows, columns = values.shape
    reach = [(kernel[i] - 1) * dilations[i] + 1 for i in (0, 1)]
    height = (rows + top + bottom - reach[0]) // strides[0] + 1
    width = (columns + left + right - reach[1]) // strides[1] + 1
    places = random.permutation(height * width)[: max(POSITIONS, VALUES // (groups * length))]
    # Of each place and each element of the kernel. Nothing is padded: the images are large, and the places few.
    y = np.add.outer(places // width * strides[0] - top, np.repeat(np.arange(kernel[0]), kernel[1]) * dilations[0])
    x = np.add.outer(places % width * strides[1] - left, np.tile(np.arange(kernel[1]), kernel[0]) * dilations[1])
    inside = (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
    patches = values.reshape(n, channels, -1).take(np.where(inside, y * columns + x, 0), axis=2)
    patches[:, :, ~inside] = 0
    # (n, c, places, kernel) -> (groups, n * places, c / groups * kernel), the order of the weight's axes.
    patches = patches.reshape(n, groups, channels // groups, *inside.shape).transpose(1, 0, 3, 2, 4)
    return np.ascontiguousarray(patches).reshape(groups, n * len(places), length)
