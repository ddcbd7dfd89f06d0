"""Convolutions of one tensor that are summed become one convolution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.shape_inference import InferenceError

from tlopt.errors import ArtifactError
from tlopt.graphs.cleaning import clean, infer, rewritten
from tlopt.graphs.naming import free_name, taken_names
from tlopt.graphs.rewriting.affine import Affine, affine
from tlopt.graphs.rewriting.folding import fold
from tlopt.graphs.rewriting.kernels import Axis, Branch
from tlopt.graphs.view import View, attribute, own_bias

_SUMS = frozenset({"Add", "Sub", "Sum"})
_SCALES = frozenset({"BatchNormalization", "Mul"})  # what may scale a branch that has no convolution
_ARITHMETIC = _SCALES | {"Add", "Sub", "Div", "Neg", "Identity"}  # what folding may take into a convolution before it


def without_branches(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an equal graph whose parallel convolutions are merged; the same one if it has none.

    RepVGG, MobileOne, RepViT and their like are trained with several branches, and are meant to run with one
    (arXiv 2101.03697). A file of such a network as it was trained has two to five times as many operators.

    What is merged comes out cleaned and folded as a whole, in opset 13 or a newer one.

    Args:
        model: As it was exported, in float32. A graph with control flow stays as it is.
    """
    if not _branched(View(model)):
        return model
    try:
        plain = fold(clean(model))
        made = merge_parallel(plain)
    except (ArtifactError, InferenceError):
        return model  # it cannot be cleaned, or its shapes are not known
    return model if made is plain else made


def merge_parallel(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an equal graph in which convolutions of one tensor that are summed are one; the same one if none are.

    A batch norm of the tensor itself is a convolution with one tap, and so is the tensor itself beside what was
    merged. Merged are branches of the same strides and groups, if the new kernel has no more taps than the branches
    together: a 3x3 and a 1x1, but no 1x7 and a 7x1. A branch stays if anything but the sum reads it.

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
        if node.op_type in _SUMS and not _inner(view, node):
            terms, _ = _terms(view, node)
            makers = [_convolution_of(view, term.maker) for term in terms if term.maker is not None]
            read = Counter(str(name) for maker in makers for name in maker.input)
            if any(maker.op_type == "Conv" and read[maker.input[0]] > 1 for maker in makers):
                return True
    return False


def _convolution_of(view: View, node: onnx.NodeProto) -> onnx.NodeProto:
    """Return the convolution before a chain of arithmetic with constants; the node itself if there is none."""
    before = node
    while before.op_type in _ARITHMETIC:
        makers = [view.producer[name] for name in before.input if name in view.producer]
        computed = [maker for maker in makers if maker.op_type != "Constant"]
        if len(computed) != 1:
            return node
        before = computed[0]
    return before if before.op_type == "Conv" else node


@dataclass(frozen=True, eq=False)
class _Term:
    """One term of a sum.

    Attributes:
        tensor: Its name.
        sign: 1 if it is added, -1 if it is subtracted.
        maker: What made it, if nothing else reads it.
    """

    tensor: str
    sign: int
    maker: onnx.NodeProto | None


def _terms(view: View, node: onnx.NodeProto) -> tuple[list[_Term], list[str]]:
    """Return what a sum adds and subtracts, and the outputs of the sums within it, which nothing else reads."""
    terms: list[_Term] = []
    sums: list[str] = []
    open_ = [(node, 1)]
    while open_:
        reader, sign = open_.pop()
        for place, name in enumerate(reader.input):
            own = -sign if reader.op_type == "Sub" and place == 1 else sign
            maker = view.producer.get(name) if _alone(view, reader, name) else None
            if maker is not None and maker.op_type in _SUMS:
                sums.append(name)
                open_.append((maker, own))
            else:
                terms.append(_Term(name, own, maker))
    return terms, sums


def _inner(view: View, node: onnx.NodeProto) -> bool:
    """Whether a sum is a term of another one."""
    reader = view.only_reader(node.output[0])
    return reader is not None and reader.op_type in _SUMS and _alone(view, reader, node.output[0])


def _alone(view: View, node: onnx.NodeProto, tensor: str) -> bool:
    """Whether a node is the one that reads a tensor, and reads it once."""
    return list(node.input).count(tensor) == 1 and view.only_reader(tensor) is node


def _pads(node: onnx.NodeProto, taps: Sequence[int], steps: Sequence[int]) -> list[int] | None:
    """Return the padding of a convolution, of all axes before and of all after; None if the image's size decides."""
    kind = attribute(node, "auto_pad", b"NOTSET")
    if kind == b"NOTSET":
        return list(attribute(node, "pads", [0] * 2 * len(taps)))
    if kind == b"VALID":
        return [0] * 2 * len(taps)
    if any(stride != 1 for stride in attribute(node, "strides", [])):
        return None
    whole = [step * (count - 1) for count, step in zip(taps, steps, strict=True)]
    less, more = [length // 2 for length in whole], [length - length // 2 for length in whole]
    return less + more if kind == b"SAME_UPPER" else more + less


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
            if node.op_type in _SUMS and not _inner(self.view, node):
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

    def _merge(self, node: onnx.NodeProto) -> None:
        """Merge the branches of one sum, for each tensor that several of them read."""
        terms, sums = _terms(self.view, node)
        found = [(term, branch) for term in terms if (branch := self._convolution(term)) is not None]
        found.sort(key=lambda pair: -pair[1].taps)
        groups: list[tuple[_Term, Branch]] = []
        done: set[_Term] = set()
        for first, branch in found:
            if first not in done:
                used, whole = self._with_others(
                    first, branch, [term for term in terms if term not in done],
                    [(term, other) for term, other in found if term not in done],
                )  # fmt: skip
                if len(used) > 1:
                    groups.append((first, whole))
                    done.update(used)
        if groups:
            self.gone.update(sums, (term.tensor for term in done if term.maker is not None))
            self.made[node.output[0]] = self._written(node, groups, [term for term in terms if term not in done])

    def _with_others(
        self, first: _Term, branch: Branch, terms: Sequence[_Term], found: Sequence[tuple[_Term, Branch]]
    ) -> tuple[list[_Term], Branch]:
        """Return the terms that can be merged with one of them, which comes first, and what they become."""
        assert first.maker is not None
        data = first.maker.input[0]
        rest = [pair for pair in found if pair[0] is not first and pair[0].maker and pair[0].maker.input[0] == data]
        rest += [(term, each) for term in terms if (each := self._each_channel(term, data, branch)) is not None]
        used, whole = [first], branch
        for term, other in rest:
            alone = len(used) == 1 and first.maker.name not in self.merged
            if term.tensor == data and alone:
                continue  # the tensor itself beside a single convolution is a skip connection: it stays
            both = whole.beside(other)
            if both is not None:
                used.append(term)
                whole = both
        return used, whole

    def _convolution(self, term: _Term) -> Branch | None:
        """Return a term that a convolution with constant weights made; None if it is another one."""
        node = term.maker
        if node is None or node.op_type != "Conv" or not self.view.is_float(node.input[0]):
            return None
        weight, bias = self.view.constant(node.input[1]), own_bias(self.view, node)
        if weight is None or bias is None:
            return None
        image = weight.ndim - 2
        steps = attribute(node, "dilations", [1] * image)
        pads = _pads(node, weight.shape[2:], steps)
        if pads is None:
            return None
        axes = tuple(
            Axis(-before, taps, step, before + after - step * (taps - 1))
            for before, after, taps, step in zip(pads[:image], pads[image:], weight.shape[2:], steps, strict=True)
        )
        return Branch(
            axes, tuple(attribute(node, "strides", [1] * image)), attribute(node, "group", 1),
            term.sign * weight.astype(np.float64), term.sign * bias.astype(np.float64),
        )  # fmt: skip

    def _each_channel(self, term: _Term, data: str, like: Branch) -> Branch | None:
        """Return a term that is a tensor, or scales and shifts its channels, as a convolution with one tap."""
        rank, channels = self.view.rank(data), like.weight.shape[1] * like.groups
        if term.tensor == data:
            change: Affine | None = Affine.identity(channels)
        elif term.maker is not None and term.maker.op_type in _SCALES and data in term.maker.input:
            change = affine(term.maker, data, self.view.constant, rank, 1, channels)
        else:
            change = None
        if change is None:
            return None
        each = np.arange(channels)
        weight = np.zeros((channels, like.weight.shape[1], *[1] * len(like.axes)))
        weight[each, each % weight.shape[1]] = change.scale.reshape(-1, *[1] * len(like.axes))
        return Branch(
            (Axis(0, 1, 1, 0),) * len(like.axes), (1,) * len(like.axes), like.groups,
            term.sign * weight, term.sign * change.shift,
        )  # fmt: skip

    def _written(
        self, node: onnx.NodeProto, groups: Sequence[tuple[_Term, Branch]], left: Sequence[_Term]
    ) -> list[onnx.NodeProto]:
        """Return the nodes that take the place of a sum: the merged convolutions, and the sum of what is left."""
        alone = len(groups) == 1 and not left
        result = str(node.output[0])
        tensors = [result] if alone else [free_name(f"{result}_merged", self.taken) for _ in groups]
        made = [self._layer(first, whole, tensor) for (first, whole), tensor in zip(groups, tensors, strict=True)]
        total = tensors[0]
        rest = [("Add", tensor) for tensor in tensors[1:]]
        rest += [("Add" if term.sign > 0 else "Sub", term.tensor) for term in left]
        for place, (kind, tensor) in enumerate(rest):
            last = place == len(rest) - 1
            after = result if last else free_name(f"{result}_sum", self.taken)
            name = free_name(f"{node.name}_sum", self.taken)
            made.append(helper.make_node(kind, [total, tensor], [after], name=name))
            total = after
        return made

    def _layer(self, first: _Term, whole: Branch, tensor: str) -> onnx.NodeProto:
        """Return a merged convolution that gives a tensor; its constants are kept."""
        before = first.maker
        assert before is not None
        self.merged.add(before.name)
        names = {what: free_name(f"{before.name}_{what}", self.taken) for what in ("weight", "bias")}
        kind = self.view.constant(before.input[1]).dtype  # type: ignore[union-attr]
        self.constants += [
            numpy_helper.from_array(values.astype(kind), names[what])
            for what, values in (("weight", whole.weight), ("bias", whole.bias))
        ]
        return helper.make_node(
            "Conv", [before.input[0], *names.values()], [tensor], name=before.name,
            kernel_shape=[axis.taps for axis in whole.axes], strides=whole.strides, group=whole.groups,
            dilations=[axis.dilation for axis in whole.axes],
            pads=[-axis.first for axis in whole.axes] + [axis.grows + axis.last for axis in whole.axes],
        )  # fmt: skip
