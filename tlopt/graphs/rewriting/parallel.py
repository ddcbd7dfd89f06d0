"""Convolutions of one tensor that are summed become one convolution."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.shape_inference import InferenceError

from tlopt.errors import ArtifactError
from tlopt.graphs.cleaning import clean, infer, rewritten
from tlopt.graphs.naming import free_name, taken_names
from tlopt.graphs.rewriting.affine import Affine, affine
from tlopt.graphs.rewriting.folding import fold
from tlopt.graphs.view import View, attribute, own_bias

_SUMS = frozenset({"Add", "Sub", "Sum"})
_NORMS = frozenset({"BatchNormalization", "Mul"})  # what may scale a branch that has no convolution


def without_branches(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an equal graph whose parallel convolutions are merged; the same one if it has none.

    RepVGG, MobileOne, RepViT and their like are trained with several branches, and are meant to run with one
    (arXiv 2101.03697). Who exports them as they were trained has two to five times as many operators.

    Args:
        model: As it was exported.
    """
    if not _branched(View(model)):
        return model
    try:
        plain = fold(clean(model))
    except (ArtifactError, InferenceError):
        return model  # with control flow, or operators of others
    made = merge_parallel(plain)
    return model if made is plain else made


def merge_parallel(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an equal graph in which convolutions of one tensor that are summed are one; the same one if none are.

    A batch norm of the tensor itself is a convolution with one tap, and so is the tensor itself beside what was
    merged. Merged are branches of the same strides and groups, if the new kernel has no more taps than the branches
    together: a 3x3 and a 1x1, but no 1x7 and a 7x1. What something else reads, too, stays.

    Args:
        model: A cleaned and folded graph.
    """
    merged: set[str] = set()
    while (made := _Merging(View(model), merged).result()) is not None:
        model = fold(made)
    return model


def _branched(view: View) -> bool:
    """Return whether a sum may have terms that can be merged, by who makes them."""
    for node in view.nodes:
        if node.op_type in _SUMS:
            makers = list(_makers(view, node))
            read = Counter(str(name) for maker in makers for name in maker.input)
            if any(maker.op_type == "Conv" and read[maker.input[0]] > 1 for maker in makers):
                return True
    return False


def _makers(view: View, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Yield what makes the terms of a sum, where nothing else reads them: the convolution before a batch norm."""
    for term in _terms(view, node):
        if term.maker is not None:
            before = view.producer.get(term.maker.input[0]) if term.maker.op_type in _NORMS else None
            yield before if before is not None and before.op_type == "Conv" else term.maker


@dataclass(frozen=True, eq=False)
class _Term:
    """One term of a sum.

    Attributes:
        tensor: Its name.
        sign: 1 if it is added, -1 if it is subtracted.
        maker: What made it, if nothing else reads it.
        sums: Outputs of the inner sums that it is a term of.
    """

    tensor: str
    sign: int
    maker: onnx.NodeProto | None
    sums: tuple[str, ...]


def _terms(view: View, node: onnx.NodeProto) -> Iterator[_Term]:
    """Yield what a sum adds and subtracts; a sum that nothing else reads gives its own terms."""
    open_: list[tuple[onnx.NodeProto, int, tuple[str, ...]]] = [(node, 1, ())]
    while open_:
        reader, sign, sums = open_.pop()
        for place, name in enumerate(reader.input):
            own = -sign if reader.op_type == "Sub" and place == 1 else sign
            maker = view.producer.get(name) if _alone(view, reader, name) else None
            if maker is not None and maker.op_type in _SUMS:
                open_.append((maker, own, (*sums, name)))
            else:
                yield _Term(name, own, maker, sums)


def _alone(view: View, node: onnx.NodeProto, tensor: str) -> bool:
    """Whether a node is the one that reads a tensor, and reads it once."""
    return list(node.input).count(tensor) == 1 and view.only_reader(tensor) is node


@dataclass(frozen=True)
class _Axis:
    """How a kernel lies on one axis of the image.

    Attributes:
        first: Where the first tap reads, beside where the first answer is: minus the padding before.
        taps: Their number.
        dilation: Between two taps.
        grows: How many more answers than pixels there are, where the stride is 1.
    """

    first: int
    taps: int
    dilation: int
    grows: int

    @property
    def last(self) -> int:
        """Where the last tap reads."""
        return self.first + self.dilation * (self.taps - 1)

    def around(self, other: _Axis) -> _Axis | None:
        """Return the shortest kernel that has the taps of both; None if their answers are of different lengths."""
        steps = {axis.dilation for axis in (self, other) if axis.taps > 1} or {1}
        step, first = steps.pop(), min(self.first, other.first)
        if steps or self.grows != other.grows or (self.first - other.first) % step:
            return None
        return _Axis(first, (max(self.last, other.last) - first) // step + 1, step, self.grows)


@dataclass(frozen=True)
class _Branch:
    """One term of a sum, as a convolution.

    Attributes:
        axes: Of the image.
        strides: Of each.
        groups: Of channels.
        weight: float64 (outputs, inputs / groups, taps…).
        bias: float64 (outputs,).
    """

    axes: tuple[_Axis, ...]
    strides: tuple[int, ...]
    groups: int
    weight: np.ndarray
    bias: np.ndarray

    @property
    def taps(self) -> int:
        """Number of taps of its kernel."""
        return math.prod(axis.taps for axis in self.axes)

    def beside(self, other: _Branch) -> _Branch | None:
        """Return both as one; None if they cannot be, or it would be more work."""
        alike = (self.strides, self.groups, self.weight.shape[:2]) == (
            other.strides, other.groups, other.weight.shape[:2],
        )  # fmt: skip
        axes = [own.around(its) for own, its in zip(self.axes, other.axes, strict=True)] if alike else [None]
        whole = tuple(axis for axis in axes if axis is not None)
        if len(whole) < len(axes) or math.prod(axis.taps for axis in whole) > self.taps + other.taps:
            return None
        weight = self.within(whole) + other.within(whole)
        return replace(self, axes=whole, weight=weight, bias=self.bias + other.bias)

    def within(self, axes: Sequence[_Axis]) -> np.ndarray:
        """Return its weights in a larger kernel."""
        wide = np.zeros((*self.weight.shape[:2], *(axis.taps for axis in axes)))
        places = [(own.first - axis.first) // axis.dilation for own, axis in zip(self.axes, axes, strict=True)]
        wide[:, :, *(slice(at, at + own.taps) for at, own in zip(places, self.axes, strict=True))] = self.weight
        return wide


class _Merging:
    """One pass over a graph.

    Args:
        view: The graph.
        merged: Names of the convolutions that were merged; grows.
    """

    def __init__(self, view: View, merged: set[str]) -> None:
        self.view, self.merged = view, merged
        self.taken = taken_names(view.model.graph)
        self.constants: list[onnx.TensorProto] = []
        self.gone: set[str] = set()  # outputs of the nodes whose place others take
        self.made: dict[str, list[onnx.NodeProto]] = {}  # output of a sum -> the nodes that take its place

    def result(self) -> onnx.ModelProto | None:
        """Return the graph with what could be merged; None if there was nothing."""
        for node in self.view.nodes:
            if node.op_type in _SUMS and not self._inner(node):
                self._merge(node)
        if not self.made:
            return None
        nodes: list[onnx.NodeProto] = []
        for node in self.view.nodes:
            if node.output[0] in self.made:
                nodes += self.made[node.output[0]]
            elif node.output[0] not in self.gone:
                nodes.append(node)
        return infer(rewritten(self.view.model, nodes, self.constants))

    def _inner(self, node: onnx.NodeProto) -> bool:
        """Whether a sum is a term of another one."""
        reader = self.view.only_reader(node.output[0])
        return reader is not None and reader.op_type in _SUMS and _alone(self.view, reader, node.output[0])

    def _merge(self, node: onnx.NodeProto) -> None:
        """Merge branches of one sum that read the same tensor."""
        terms = list(_terms(self.view, node))
        found = [(term, branch) for term in terms if (branch := self._convolution(term)) is not None]
        found.sort(key=lambda pair: -pair[1].taps)
        for first, branch in found:
            used, whole = self._with_others(first, branch, terms, found)
            if len(used) > 1:
                left = [term for term in terms if term not in used]
                self.gone.update(*(term.sums for term in terms))
                self.gone.update(term.tensor for term in used if term.maker is not None)
                self.made[node.output[0]] = self._written(node, first, whole, left)
                return  # branches that read something else have their turn in the next pass

    def _with_others(
        self, first: _Term, branch: _Branch, terms: Sequence[_Term], found: Sequence[tuple[_Term, _Branch]]
    ) -> tuple[list[_Term], _Branch]:
        """Return the terms that can be merged with one of them, which comes first, and what they become."""
        assert first.maker is not None
        data = first.maker.input[0]
        rest = [(term, other) for term, other in found if term.maker and term.maker.input[0] == data]
        rest += [(term, other) for term in terms if (other := self._each_channel(term, data, branch)) is not None]
        used, whole = [first], branch
        for term, other in rest:
            # The tensor itself beside a single convolution is a skip connection: it stays.
            skip = term.tensor == data and len(used) == 1 and first.maker.name not in self.merged
            if term is not first and not skip and (both := whole.beside(other)) is not None:
                used.append(term)
                whole = both
        return used, whole

    def _convolution(self, term: _Term) -> _Branch | None:
        """Return a term that a convolution with constant weights made; None if it is another one."""
        node = term.maker
        if node is None or node.op_type != "Conv" or not self.view.is_float(node.input[0]):
            return None
        weight, bias = self.view.constant(node.input[1]), own_bias(self.view, node)
        if weight is None or bias is None or attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
            return None
        image = weight.ndim - 2
        pads = attribute(node, "pads", [0] * 2 * image)
        steps = attribute(node, "dilations", [1] * image)
        axes = tuple(
            _Axis(-before, taps, step, before + after - step * (taps - 1))
            for before, after, taps, step in zip(pads[:image], pads[image:], weight.shape[2:], steps, strict=True)
        )
        return _Branch(
            axes, tuple(attribute(node, "strides", [1] * image)), attribute(node, "group", 1),
            term.sign * weight.astype(np.float64), term.sign * bias.astype(np.float64),
        )  # fmt: skip

    def _each_channel(self, term: _Term, data: str, beside: _Branch) -> _Branch | None:
        """Return a term that is a tensor, or scales and shifts its channels, as a convolution with one tap."""
        rank, channels = self.view.rank(data), beside.weight.shape[1] * beside.groups
        if term.tensor == data:
            change: Affine | None = Affine.identity(channels)
        elif term.maker is not None and term.maker.op_type in _NORMS and data in term.maker.input:
            change = affine(term.maker, data, self.view.constant, rank, 1, channels)
        else:
            change = None
        if change is None:
            return None
        each = np.arange(channels)
        weight = np.zeros((channels, beside.weight.shape[1], *[1] * len(beside.axes)))
        weight[each, each % weight.shape[1]] = change.scale.reshape(-1, *[1] * len(beside.axes))
        return _Branch(
            (_Axis(0, 1, 1, 0),) * len(beside.axes), (1,) * len(beside.axes), beside.groups,
            term.sign * weight, term.sign * change.shift,
        )  # fmt: skip

    def _written(
        self, node: onnx.NodeProto, first: _Term, whole: _Branch, left: Sequence[_Term]
    ) -> list[onnx.NodeProto]:
        """Return the nodes that take the place of a sum."""
        before = first.maker
        assert before is not None
        self.merged.add(before.name)
        names = {what: free_name(f"{before.name}_{what}", self.taken) for what in ("weight", "bias")}
        kind = self.view.constant(before.input[1]).dtype  # type: ignore[union-attr]
        self.constants += [
            numpy_helper.from_array(values.astype(kind), names[what])
            for what, values in (("weight", whole.weight), ("bias", whole.bias))
        ]
        tensor = free_name(f"{node.output[0]}_merged", self.taken) if left else node.output[0]
        made = [
            helper.make_node(
                "Conv", [before.input[0], *names.values()], [tensor], name=before.name,
                kernel_shape=[axis.taps for axis in whole.axes], strides=whole.strides, group=whole.groups,
                dilations=[axis.dilation for axis in whole.axes],
                pads=[-axis.first for axis in whole.axes] + [axis.grows + axis.last for axis in whole.axes],
            )
        ]  # fmt: skip
        for term in left:
            result = node.output[0] if term is left[-1] else free_name(f"{node.output[0]}_sum", self.taken)
            kind_of_sum = "Add" if term.sign > 0 else "Sub"
            made.append(
                helper.make_node(
                    kind_of_sum, [tensor, term.tensor], [result], name=free_name(f"{node.name}_sum", self.taken)
                )
            )
            tensor = result
        return made
