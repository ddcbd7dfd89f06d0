"""Torch-Pruning's dependency graph, with sizes that are read from the traced steps instead of guessed.

Torch-Pruning 1.6.1 infers the sizes of concatenations, splits and reshapes from the layers around them. It looks along
many ways for that, which takes minutes in networks with attention. It takes the parts of a split in the order in
which its tracing meets their readers, and counts a part that is read twice as two. autograd knows all of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch_pruning import DependencyGraph
from torch_pruning.dependency import index_mapping as mappings
from torch_pruning.ops import OPTYPE

_SIGNED = 1 << 63  # autograd shows a negative axis as an unsigned number


class Graph(DependencyGraph):  # type: ignore[misc]  # the library has no types
    """Which channels of which layers, parameters and operations hang together."""

    def __init__(self, model: nn.Module, images: torch.Tensor) -> None:
        """Trace a network.

        Args:
            model: Its parameters take gradients.
            images: float32 (n, 3, h, w).
        """
        super().__init__()
        self.verbose, self.model = False, model
        self.ignored_params: list[nn.Parameter] = []
        self._module2name = {module: name for name, module in model.named_modules()}
        self._param_to_name, self.unwrapped_parameters = self._detect_unwrapped_parameters(None)
        self.module2node = self._trace(model, (images,), None, output_transform=None)
        self._build_dependency(self.module2node)
        for node in self.module2node.values():
            if node.type == OPTYPE.CONCAT and node.enable_index_mapping:
                _map_concat(node)
            elif node.type == OPTYPE.SPLIT and node.enable_index_mapping:
                _map_split(node)
            elif node.type == OPTYPE.RESHAPE:
                _map_reshape(node)
            elif node.type == OPTYPE.UNBIND:
                mappings.update_unbind_index_mapping(self, node)
            elif node.type == OPTYPE.EXPAND:
                mappings.update_expand_index_mapping(self, node)
            elif node.type == OPTYPE.SLICE:
                mappings.update_slice_index_mapping(self, node)


def _map_concat(node: Any) -> None:
    sizes: list[int] = []
    inputs: list[int] = []  # which of them have a node, in the order of the node's inputs
    before = [(step, place) for step, place in node.grad_fn.next_functions if step is not None]
    axis = _channel_axis(node)
    if axis is None or len(before) < len(node.grad_fn.next_functions):
        return
    for i, (step, place) in enumerate(before):
        sizes.append(_shape(step, place)[axis])
        if not hasattr(step, "variable"):
            inputs.append(i)
    offsets = _offsets(sizes)
    if len(inputs) != len(node.inputs):
        return
    for i, source in zip(inputs, node.inputs, strict=True):
        part = offsets[i : i + 2]
        _set(node, source, 1, mappings._ConcatIndexMapping(offset=part, reverse=True))
        _set(source, node, 1, mappings._ConcatIndexMapping(offset=part, reverse=False))


def _map_split(node: Any) -> None:
    axis = _channel_axis(node)
    if axis is None:
        return
    offsets = _offsets([found.shape[axis] for found in node.grad_fn._input_metadata])
    for reader in dict.fromkeys(node.outputs):
        for step, place in getattr(reader.grad_fn, "next_functions", ()):
            if step is node.grad_fn:
                part = offsets[place : place + 2]
                _set(node, reader, 0, mappings._SplitIndexMapping(offset=part, reverse=False))
                _set(reader, node, 0, mappings._SplitIndexMapping(offset=part, reverse=True))


def _map_reshape(node: Any) -> None:
    """Map channels that become so many features each, or the other way round."""
    step, place = node.grad_fn.next_functions[0]
    if step is None:
        return
    before, after = _shape(step, place), _shape(node.grad_fn, 0)
    flattens = len(before) == 4 and len(after) == 2
    if not flattens and not (len(before) == 2 and len(after) == 4):
        return
    wide, flat = (before, after) if flattens else (after, before)
    plane = math.prod(wide[2:])
    # A linear layer on channels that come last flattens the places before them: its channels stay as they are.
    if plane > 1 and flat[1] == wide[1] * plane:
        for others in (node.inputs,) if flattens else (node.outputs,):
            for other in others:
                _set(node, other, 0, mappings._FlattenIndexMapping(stride=plane, reverse=True))
                _set(other, node, 0, mappings._FlattenIndexMapping(stride=plane, reverse=False))


def _channel_axis(node: Any) -> int | None:
    """Return the axis that a concatenation or split works along if it is that of the channels, None otherwise."""
    rank, axis = len(_shape(node.grad_fn, 0)), int(node.grad_fn._saved_dim)
    axis = (axis - 2 * _SIGNED if axis >= _SIGNED else axis) % rank
    # Of three axes the last one runs over features: tokens come before.
    return axis if axis == (2 if rank == 3 else 1) else None


def _shape(step: Any, place: int) -> Sequence[int]:
    """Return the shape of what a step of autograd made, or of a parameter."""
    found: Sequence[int] = step.variable.shape if hasattr(step, "variable") else step._input_metadata[place].shape
    return found


def _offsets(sizes: Sequence[int]) -> list[int]:
    return [sum(sizes[:i]) for i in range(len(sizes) + 1)]


def _set(source: Any, target: Any, place: int, mapping: Any) -> None:
    """Give a mapping to the next edge between two nodes that has none: two of them may have several."""
    for edge in source.dependencies:
        if edge.target is target and edge.index_mapping[place] is None:
            edge.index_mapping[place] = mapping
            return
