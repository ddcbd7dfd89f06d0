"""How much an artifact computes and moves, counted from its graph."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tlopt.artifact import Artifact
from tlopt.errors import ArtifactError

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer's share of the work, for a whole batch.

    Args:
        name: The node's name, or its output's where it has none.
        op: Its operator.
        macs: Multiply-adds.
        moved: Bytes of its input, weights and output, each once.
        output: Shape of its output.
        tensors: Its output and, if one activation reads it, that one's: names runtimes use for it.
    """

    name: str
    op: str
    macs: int
    moved: int
    output: tuple[int, ...]
    tensors: tuple[str, ...]


def layers(artifact: Artifact, *, batch: int = 1) -> list[Layer]:
    """Return the convolutions and matrix products of an ONNX artifact.

    Only they are counted: a runtime fuses most of the rest into them. A tensor between Q and DQ
    moves as the integers it is made of.

    Raises:
        ArtifactError: It is of another kind, or a shape in it cannot be inferred.
    """
    from tlopt.graphs.cleaning import with_shapes
    from tlopt.graphs.loading import load_graph

    file = artifact.expect("onnx").payload(".onnx")
    model = load_graph(file)
    fixed = artifact.card.onnx.fixed_batch
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = fixed or batch
    runs = -(-batch // fixed) if fixed else 1
    try:
        inferred = with_shapes(model)
        found = _layers(inferred if artifact.card.task == "classify" else _settled(inferred))
        return [replace(layer, macs=layer.macs * runs, moved=layer.moved * runs) for layer in found]
    except (IndexError, KeyError, ValueError, RuntimeError) as error:
        # The checker passes tensors of fewer dimensions than their operator takes.
        raise ArtifactError(
            f"The shapes of the tensors in {file} do not fit its operators: {str(error).partition(chr(10))[0]}.",
            hint="Export the model again.",
        ) from error


def _settled(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph with the lengths that it finds out for itself, where they can be followed."""
    import onnx

    from tlopt.graphs.cleaning import clean
    from tlopt.graphs.lengths import settle

    try:
        return settle(clean(model))
    except (ArtifactError, onnx.shape_inference.InferenceError, RuntimeError):  # what was inferred has to do
        return model


def _layers(inferred: onnx.ModelProto) -> list[Layer]:
    """Return the convolutions and matrix products of a graph whose shapes are known."""
    from tlopt.graphs.macs import multiply_adds as macs
    from tlopt.graphs.view import WEIGHTED

    sizes = _Tensors(inferred)
    activated: dict[str, list[str]] = {}
    for node in inferred.graph.node:
        if node.op_type in ("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "Tanh"):
            activated.setdefault(node.input[0], []).append(node.output[0])
    found = []
    for node in inferred.graph.node:
        if node.op_type not in WEIGHTED:
            continue
        moved = sum(sizes.nbytes(name) for name in (*node.input, node.output[0]) if name)
        found.append(
            Layer(
                name=node.name or node.output[0],
                op=node.op_type,
                macs=macs(node, sizes.shape),
                moved=moved,
                output=tuple(sizes.shape(node.output[0])),
                tensors=(node.output[0], *activated.get(node.output[0], ())),
            )
        )
    return found


def multiply_adds(artifact: Artifact) -> int | None:
    """Return the multiply-adds for one image, None where the artifact does not show them."""
    if artifact.card.kind == "onnx":
        return sum(layer.macs for layer in layers(artifact))
    if artifact.card.kind == "torch":
        from tlopt.pruning import analysis
        from tlopt.sources import open_model

        return analysis.multiply_adds(open_model(artifact), artifact.card.preprocess.size)
    return None


class _Tensors:
    """Shapes and element sizes of a graph's tensors."""

    def __init__(self, model: onnx.ModelProto) -> None:
        from onnx import helper

        graph = model.graph
        self._shapes: dict[str, list[int]] = {}
        self._width: dict[str, int] = {}
        for value in (*graph.input, *graph.output, *graph.value_info):
            tensor = value.type.tensor_type
            self._shapes[value.name] = [d.dim_value for d in tensor.shape.dim]
            self._width[value.name] = _width(helper, tensor.elem_type)
        for constant in graph.initializer:
            self._shapes[constant.name] = list(constant.dims)
            self._width[constant.name] = _width(helper, constant.data_type)
        for node in graph.node:
            # A dequantized tensor moves as what it was dequantized from; so does one about to be quantized.
            if node.op_type == "DequantizeLinear":
                self._width[node.output[0]] = self._width.get(node.input[0], 1)
            elif node.op_type == "QuantizeLinear":
                self._width[node.input[0]] = self._width.get(node.output[0], 1)

    def shape(self, name: str) -> list[int]:
        shape = self._shapes.get(name)
        if not shape or any(side <= 0 for side in shape):
            raise ArtifactError(
                f"The shape of the tensor {name} cannot be inferred: {shape}.",
                hint="Export the model again with a fixed image size.",
            )
        return shape

    def nbytes(self, name: str) -> int:
        return math.prod(self.shape(name)) * self._width[name]


def _width(helper: Any, code: int) -> int:
    """Return the bytes of one element."""
    return int(np.dtype(helper.tensor_dtype_to_np_dtype(code)).itemsize) if code else 4
