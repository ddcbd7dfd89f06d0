"""A batch normalization of all images' channels side by side becomes one of the channels of each image.

Torch exports `InstanceNorm2d(track_running_stats=True)` in this form: the images of a batch become one image with the
channels of all, and each parameter is repeated for each image. OpenVINO 2026.4 computes it wrongly once the graph has
a Q/DQ pair, and no runtime joins it to the convolution before it.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from tlopt.graphs.cleaning import rewritten, with_shapes
from tlopt.graphs.naming import free_name, taken_names
from tlopt.graphs.nesting import inside, needed
from tlopt.graphs.view import View, attribute, stored


def without_tiled_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an equal graph whose batch normalizations take each image by itself.

    Args:
        model: Stays as it is; returned itself if there is nothing to write another way.
    """
    nodes = model.graph.node
    if all(node.op_type != "BatchNormalization" for node in nodes) or any(list(inside(node)) for node in nodes):
        return model
    view, taken = View(with_shapes(model)), taken_names(model.graph)
    constants: list[onnx.TensorProto] = []
    new: dict[str, onnx.NodeProto] = {}  # first output of a node -> the one in its place
    gone: set[str] = set()  # first outputs of nodes that nothing reads any more
    for norm in view.nodes:
        images, result = _ends(view, norm)
        parameters = [_of_one_image(view, name, view.shape(images)[1]) for name in norm.input[1:]] if images else []
        found = [values for values in parameters if values is not None]
        if len(found) != 4:
            continue
        names = [free_name(f"{norm.output[0]}_{part}", taken) for part in ("scale", "bias", "mean", "variance")]
        constants += [numpy_helper.from_array(v, name) for v, name in zip(found, names, strict=True)]
        plain = onnx.NodeProto()
        plain.CopyFrom(norm)
        plain.input[:] = [images, *names]
        plain.output[:] = [result]
        new[norm.output[0]] = plain
        gone |= {result} - {norm.output[0]}
    if not new:
        return model
    kept = [new.get(node.output[0], node) for node in nodes if node.output[0] not in gone]
    made = rewritten(model, needed(kept, view.outputs), constants)
    del made.graph.value_info[:]
    return made


def _ends(view: View, norm: onnx.NodeProto) -> tuple[str, str]:
    """Return the tensor of the images before their channels were put side by side, and that of the result.

    Returns:
        Empty names if the node is no batch normalization of this form.
    """
    merging = view.producer.get(norm.input[0]) if norm.op_type == "BatchNormalization" else None
    if merging is None or merging.op_type != "Reshape" or attribute(norm, "training_mode", 0) or len(norm.output) > 1:
        return "", ""
    images, side_by_side = str(merging.input[0]), view.shape(norm.input[0])
    shape = view.shape(images)
    # Axes from the third one on, of known lengths, stay; the first two become one.
    if len(shape) < 3 or not all(shape[1:]) or side_by_side[:1] != (1,) or side_by_side[2:] != shape[2:]:
        return "", ""
    if shape[0] == 1:
        return images, str(norm.output[0])
    reader = view.only_reader(norm.output[0])
    if reader is None or reader.op_type != "Reshape" or reader.input[0] != norm.output[0]:
        return "", ""
    return (images, str(reader.output[0])) if view.shape(reader.output[0])[1:] == shape[1:] else ("", "")


def _of_one_image(view: View, name: str, channels: int) -> np.ndarray | None:
    """Return the values (channels,) that a parameter repeats for each image; None if it does not repeat constants."""
    repeating = view.producer.get(name)
    values = stored(view, repeating.input[0] if repeating is not None and repeating.op_type == "Tile" else name)
    if values is None or values.ndim != 1 or values.size % channels:
        return None
    rows = values.reshape(-1, channels)
    return rows[0] if len(rows) and (rows == rows[0]).all() else None
