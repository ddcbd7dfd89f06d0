"""Bring a graph to a newer version of ONNX's operators, and prove that it still gives the same answers."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

from tlopt.errors import ArtifactError, MissingLibraryError
from tlopt.graphs.naming import free_name, taken_names
from tlopt.graphs.precision import opset_of
from tlopt.graphs.view import attribute
from tlopt.sessions import open_session

log = logging.getLogger(__name__)

_SIDE = 64  # pixels of an axis of free length
_SAME = {TensorProto.FLOAT16: 2e-2, TensorProto.BFLOAT16: 1e-1}  # share of the spread; in other types:
_SAME_FLOAT = 1e-3
_HINT = "Export the network again, with a newer opset."
_RESIZE_11, _HARDMAX_13 = 11, 13  # the versions in which these changed what they compute


def brought(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """Return an equal graph in a newer version of the operators.

    ONNX's converter keeps the names of operators that changed what they compute: those are mended here. Then both
    graphs answer to one random input, since the converter may change others, too.

    Args:
        model: Stays as it is; returned itself if it is new enough.
        version: The opset.

    Raises:
        ArtifactError: The graph cannot be brought there, or answers otherwise afterwards.
    """
    old = opset_of(model)
    if old >= version:
        return model
    try:
        made = version_converter.convert_version(_with_plain_pads(model), version)
    except RuntimeError as error:  # the converter is C++: it raises nothing finer
        raise ArtifactError(
            f"The graph's opset is {old}, and it cannot be brought to {version}: {error}", hint=_HINT
        ) from error
    if old < _RESIZE_11 <= version:
        _mend_resizes(made.graph)
    if old < _HARDMAX_13 <= version:
        _mend_hardmaxes(made.graph)
    _check(model, made, old, version)
    return made


def _with_plain_pads(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph whose Pads have no value that they do not use: the converter would leave it where none may be.

    Args:
        model: Stays as it is.
    """
    if not any(map(_ignores_value, model.graph.node)):
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for node in filter(_ignores_value, made.graph.node):
        kept = [item for item in node.attribute if item.name != "value"]
        del node.attribute[:]
        node.attribute.extend(kept)
    return made


def _ignores_value(node: onnx.NodeProto) -> bool:
    return bool(node.op_type == "Pad" and attribute(node, "mode", b"constant") != b"constant")


def _mend_resizes(graph: onnx.GraphProto) -> None:
    """Let each Resize sample where Upsample and Resize did before opset 11: at the upper left corner of a pixel."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {n.output[0]: attribute(n, "value") for n in graph.node if n.op_type == "Constant"}
    for node in graph.node:
        if node.op_type != "Resize":
            continue
        kept = [a for a in node.attribute if a.name not in ("coordinate_transformation_mode", "nearest_mode")]
        made = {"coordinate_transformation_mode": "asymmetric"}
        if attribute(node, "mode", b"nearest") == b"nearest":
            tensor = constants.get(node.input[2]) if len(node.input) > 2 else None
            shrinks = tensor is not None and bool((numpy_helper.to_array(tensor) < 1).any())
            made["nearest_mode"] = "ceil" if shrinks else "floor"  # ONNX Runtime's rounding of that time
        del node.attribute[:]
        node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in made.items())])


def _mend_hardmaxes(graph: onnx.GraphProto) -> None:
    """Let each Hardmax look over all axes from its own on at once, as it did before opset 13."""
    nodes: list[onnx.NodeProto] = []
    taken = taken_names(graph)
    for node in graph.node:
        if node.op_type != "Hardmax":
            nodes.append(node)
            continue
        source, made, axis = node.input[0], node.output[0], attribute(node, "axis", 1)
        shape, flat, picked = (free_name(f"{made}_{part}", taken) for part in ("shape", "flat", "picked"))
        nodes += [
            helper.make_node("Shape", [source], [shape], name=shape),
            helper.make_node("Flatten", [source], [flat], name=flat, axis=axis),
            helper.make_node("Hardmax", [flat], [picked], name=node.name, axis=-1),
            helper.make_node("Reshape", [picked, shape], [made], name=f"{made}_unflat"),
        ]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)


def _check(before: onnx.ModelProto, after: onnx.ModelProto, old: int, version: int) -> None:
    """Compare the answers of two graphs to one random input, where the first runs.

    Raises:
        ArtifactError: The second cannot run, or answers otherwise.
    """
    try:
        inputs = _random_inputs(before)
        wanted = _answers(before, inputs)
    except MissingLibraryError:
        return
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's exceptions share no base but Exception
        log.info("opset %d is not compared with opset %d, the graph does not run: %s", version, old, error)
        return
    why = "its answers would change"
    try:
        found = _answers(after, inputs)
        if all(_alike(a, b, out) for a, b, out in zip(found, wanted, before.graph.output, strict=True)):
            return
    except Exception as error:  # noqa: BLE001 - as above
        why = str(error).strip().partition("\n")[0]
    kinds = ", ".join(sorted({node.op_type for node in before.graph.node}))
    raise ArtifactError(
        f"The graph's opset is {old}, and it cannot be brought to {version}: {why}. Its operators are {kinds}.",
        hint=_HINT,
    )


def _random_inputs(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return a random value of each input: one image of each, and lengths of 64 where they are free."""
    random = np.random.default_rng(0)
    constants = {tensor.name for tensor in model.graph.initializer}
    found = {}
    for entry in model.graph.input:
        if entry.name in constants:
            continue
        kind = entry.type.tensor_type
        free = (1 if axis == 0 else _SIDE for axis in range(len(kind.shape.dim)))
        shape = [dim.dim_value or length for dim, length in zip(kind.shape.dim, free, strict=True)]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        floats = np.issubdtype(dtype, np.floating)
        found[entry.name] = (random.normal(size=shape) if floats else random.integers(0, 2, shape)).astype(dtype)
    return found


def _answers(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[Any]:
    answers: list[Any] = open_session(model, optimize=False, arena=False).run(None, inputs)
    return answers


def _alike(found: Any, wanted: Any, output: onnx.ValueInfoProto) -> bool:
    """Whether two answers are the same but for the rounding of their type."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    if found.shape != wanted.shape:
        return False
    if not np.issubdtype(wanted.dtype, np.floating):
        return bool(np.array_equal(found, wanted))
    found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    spread = max(float(np.nanstd(wanted)), 1e-6) if wanted.size > 1 else max(float(np.abs(wanted).max(initial=0)), 1e-6)
    share = _SAME.get(output.type.tensor_type.elem_type, _SAME_FLOAT)
    return bool(np.allclose(found, wanted, rtol=0, atol=share * spread, equal_nan=True))
