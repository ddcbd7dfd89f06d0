"""Make the channels of a tensor equally wide, without changing what the graph computes."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import numpy_helper

from tlopt.graphs.cleaning import rewritten
from tlopt.graphs.naming import free_name, taken_names
from tlopt.graphs.view import View, attribute, fused_activation
from tlopt.quantization.calibration.activations import tapped
from tlopt.sessions import open_session

NARROWEST = 1 / 64  # a channel is widened at most so much against the widest

# f(a x) = a f(x) for a > 0, channel by channel.
_HOMOGENEOUS = frozenset({"Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Add"})


def equalize(view: View, batches: Iterable[np.ndarray]) -> View:
    """Return the graph with the channels of its tensors scaled to ranges as alike as can be.

    One 8-bit scale serves all channels of a tensor, so that a narrow channel gets few of the levels.
    What a convolution divides its output channel by, those that read it multiply their weights by:
    cross-layer equalization, Nagel et al., arXiv:1906.04721. Here the ranges are those measured, and
    tensors that are added share their factors. A Clip at 6 does not commute with a factor; tensors
    that meet one, or an operator unknown here, stay as they are. (To widen a channel before a Clip as
    far as the values met allow was tried: the rarer values that it then cuts cost more than it gains.)

    Args:
        view: Of a cleaned float graph.
        batches: Network inputs.
    """
    groups = _groups(view)
    # What an activation function reads is not quantized: its width does not count.
    tensors = [
        tensor
        for members in groups
        for tensor in members
        if view.rank(tensor) == 4 and fused_activation(view, tensor) == tensor
    ]
    if not tensors:
        return view
    widths = _widths(view, tensors, batches)
    weights: dict[tuple[str, int], np.ndarray] = {}
    for members in groups:
        seen = [widths[tensor] / max(widths[tensor].max(), 1e-12) for tensor in members if tensor in widths]
        if not seen:
            continue
        factor = np.maximum(np.mean(seen, axis=0), NARROWEST)
        _scale(view, members, factor, weights)
    nodes, constants, taken = copy.deepcopy(view.nodes), [], taken_names(view.model.graph)
    for node in nodes:
        for position in (1, 2):
            if (values := weights.get((node.name, position))) is not None:
                name = free_name(f"{node.name}_{'weight' if position == 1 else 'bias'}_equalized", taken)
                constants.append(numpy_helper.from_array(values.astype(np.float32), name))
                node.input[position] = name
    return View(rewritten(view.model, nodes, constants))


def _groups(view: View) -> list[list[str]]:
    """Return the sets of tensors that have to share their factors, where factors are allowed at all."""
    leader: dict[str, str] = {}

    def root(tensor: str) -> str:
        while leader.setdefault(tensor, tensor) != tensor:
            tensor = leader[tensor]
        return tensor

    fixed = {*view.inputs, *view.outputs}
    for node in view.nodes:
        computed = [name for name in node.input if name and name not in view.initializers]
        touched = [*computed, *node.output]
        if node.op_type in ("Conv", "Gemm") and view.weight(node) and _plain(view, node):
            for tensor in touched:
                root(tensor)
        elif _commutes(view, node, computed):
            for tensor in touched[1:]:
                leader[root(tensor)] = root(touched[0])
        else:
            fixed |= set(touched)
    frozen = {root(tensor) for tensor in fixed}
    found: dict[str, list[str]] = defaultdict(list)
    for tensor in list(leader):
        if root(tensor) not in frozen:
            found[root(tensor)].append(tensor)
    return list(found.values())


def _commutes(view: View, node: onnx.NodeProto, computed: list[str]) -> bool:
    """Whether a factor for each channel may be moved across a node."""
    homogeneous = node.op_type in _HOMOGENEOUS and len(computed) == len(node.input)
    return (homogeneous and _alike(view, [*computed, *node.output])) or _flattens(view, node)


def _plain(view: View, node: onnx.NodeProto) -> bool:
    """Whether a node's weights are its own to scale: bias constant, Gemm in its usual form."""
    if len(node.input) > 2 and node.input[2] and node.input[2] not in view.initializers:
        return False
    if node.op_type == "Conv":
        return True
    return bool(attribute(node, "transB", 0)) and not attribute(node, "transA", 0) and attribute(node, "beta", 1.0) == 1


def _alike(view: View, tensors: list[str]) -> bool:
    return len({view.shape(tensor)[1:2] for tensor in tensors}) == 1 and all(view.rank(t) == 4 for t in tensors)


def _flattens(view: View, node: onnx.NodeProto) -> bool:
    """Whether a node turns (n, c, 1, 1) into (n, c)."""
    if node.op_type not in ("Reshape", "Flatten", "Squeeze"):
        return False
    before, after = view.shape(node.input[0]), view.shape(node.output[0])
    return len(before) == 4 and before[2:] == (1, 1) and len(after) == 2 and before[1] == after[1] > 0


def _widths(view: View, tensors: list[str], batches: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Return each channel's largest magnitude in an image, averaged over the images: float64 (c,)."""
    runner = open_session(tapped(view.model, tensors), arena=False)
    source = view.inputs[0]
    totals: dict[str, np.ndarray] = {}
    images = 0
    for inputs in batches:
        images += len(inputs)
        for name, values in zip(tensors, runner.run(None, {source: inputs}), strict=True):
            found = np.maximum(values.max((2, 3)), -values.min((2, 3))).astype(np.float64)
            totals[name] = totals.get(name, 0) + found.sum(0)
    return {name: total / images for name, total in totals.items()}


def _scale(view: View, members: list[str], factor: np.ndarray, weights: dict[tuple[str, int], np.ndarray]) -> None:
    """Divide the tensors of a group by their channels' factors, in the weights before and after."""
    inside = set(members)

    def values(node: onnx.NodeProto, position: int) -> np.ndarray:
        found = weights.get((node.name, position))
        if found is None:
            constant = view.constant(node.input[position])
            assert constant is not None
            found = constant.astype(np.float64)
        return found

    for node in view.nodes:
        if not view.weight(node):
            continue
        if node.output[0] in inside:
            weight = values(node, 1)
            weights[node.name, 1] = weight / factor.reshape(-1, *[1] * (weight.ndim - 1))
            if len(node.input) > 2 and node.input[2]:
                weights[node.name, 2] = values(node, 2) / factor
        if node.input[0] in inside:
            weight = values(node, 1)
            groups = attribute(node, "group", 1)
            # Output channel o of a grouped convolution reads the input channels of its own group.
            read = factor.reshape(groups, -1).repeat(weight.shape[0] // groups, axis=0)
            weights[node.name, 1] = weight * read.reshape(*read.shape, *[1] * (weight.ndim - 2))
