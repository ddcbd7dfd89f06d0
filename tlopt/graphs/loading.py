"""ONNX files are read here: parsed, with their external data, and checked, once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf import json_format, text_format  # type: ignore[import-untyped]  # it has no stubs
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it has no stubs
from onnx import inliner

from tlopt.errors import ArtifactError
from tlopt.reading import files

_LARGEST = 2 << 30  # bytes: what a protobuf message can hold; larger networks keep their weights in external data
_UNREADABLE = (
    DecodeError,
    json_format.Error,
    text_format.Error,
    onnx.parser.ParseError,
)  # onnx.load goes by the ending of the name
_HINT = "Export it again, or run python -m onnx.checker on it."
# Whole elements in so many bytes; several elements share a byte in the others.
_DENSE = {
    onnx.TensorProto.FLOAT: 4, onnx.TensorProto.DOUBLE: 8, onnx.TensorProto.FLOAT16: 2, onnx.TensorProto.BFLOAT16: 2,
    onnx.TensorProto.INT8: 1, onnx.TensorProto.UINT8: 1, onnx.TensorProto.INT16: 2, onnx.TensorProto.UINT16: 2,
    onnx.TensorProto.INT32: 4, onnx.TensorProto.UINT32: 4, onnx.TensorProto.INT64: 8, onnx.TensorProto.UINT64: 8,
    onnx.TensorProto.BOOL: 1, onnx.TensorProto.FLOAT8E4M3FN: 1, onnx.TensorProto.FLOAT8E5M2: 1,
}  # fmt: skip


def load_graph(file: Path) -> onnx.ModelProto:
    """Read an ONNX file and check that it is a whole graph.

    Functions of its own, as exporters of whole modules write them, are written out: no step and not every runtime looks
    into them.

    Raises:
        ArtifactError: It is missing, no ONNX file, larger than one can be, its external data is missing or lies outside
            of its folder, or the graph is broken: nodes out of order or in a circle, unknown operators, tensors of
            other sizes than they say.
    """
    try:
        files.expect_regular(file, limit=_LARGEST)
        model = onnx.load(file)
        _free(model.graph)
        _describe_outputs(model)
        onnx.checker.check_model(model)
    except (OSError, *_UNREADABLE, ValueError, onnx.checker.ValidationError, RuntimeError, MemoryError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ArtifactError(f"{file} is not a readable ONNX file: {reason}", hint=_HINT) from error
    if problem := _problem(model):
        raise ArtifactError(f"{file} is not a complete ONNX graph: {problem}.", hint=_HINT)
    return inliner.inline_local_functions(model) if model.functions else model


def _free(graph: onnx.GraphProto) -> None:
    """Leave open the lengths that a file gives as -1 or, of what goes in and out, as 0, in place.

    Paddle2ONNX and exporters of MXNet write them so where any length will do. As numbers they are none.
    """
    weights = {tensor.name for tensor in graph.initializer}
    ends = [value for value in (*graph.input, *graph.output) if value.name not in weights]
    for values, least in ((ends, 1), (graph.value_info, 0)):
        for dim in (dim for value in values for dim in value.type.tensor_type.shape.dim):
            if dim.HasField("dim_value") and dim.dim_value < least:
                dim.ClearField("value")


def _describe_outputs(model: onnx.ModelProto) -> None:
    """Give outputs the type and shape that follow from the graph where a file leaves them out, in place.

    ONNX Runtime runs such files. The checker of ONNX refuses them.
    """
    bare = [value for value in model.graph.output if not value.type.WhichOneof("value") or _has_no_shape(value)]
    if not bare:
        return
    found = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.output}
    for value in bare:
        if not _has_no_shape(found[value.name]):
            value.CopyFrom(found[value.name])


def _has_no_shape(value: onnx.ValueInfoProto) -> bool:
    return value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")


def _problem(model: onnx.ModelProto) -> str:
    """Return what the checker lets pass and no later step can take; empty if there is nothing."""
    graph = model.graph
    if not graph.node or not graph.input or not graph.output:
        missing = "node" if not graph.node else "input" if not graph.input else "output"
        return f"it has no {missing}"
    weights = {tensor.name for tensor in graph.initializer}  # which files of IR 3 list among the inputs
    first = next((value for value in graph.input if value.name not in weights), None)
    if first is None:
        return "it has no input"
    if not first.type.tensor_type.shape.dim:
        return f"its input {first.name!a} has no shape"
    if not any(entry.domain in ("", "ai.onnx") for entry in model.opset_import):
        return "it names no version of the operators"
    known = {name for node in graph.node for name in node.output} | {value.name for value in graph.input}
    known |= {tensor.name for tensor in graph.initializer}
    if lost := [value.name for value in graph.output if value.name not in known]:
        return f"nothing computes its output {lost[0]!a}"
    for tensor in _tensors(graph):
        if any(side < 0 for side in tensor.dims):
            return f"the tensor {tensor.name!a} has a negative size, {list(tensor.dims)}"
        size = _DENSE.get(tensor.data_type, 0)
        if size and tensor.HasField("raw_data") and len(tensor.raw_data) != size * math.prod(tensor.dims):
            return f"the tensor {tensor.name!a} of shape {list(tensor.dims)} has {len(tensor.raw_data)} bytes"
    return ""


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)
