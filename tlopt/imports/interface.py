"""Which tensor of a graph is the image, and which is the answer."""

from __future__ import annotations

import copy
from pathlib import Path

import onnx
from onnx import TensorProto, helper, shape_inference

from tlopt.errors import ArtifactError, SettingError, suggestion
from tlopt.graphs.nesting import reads

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
_WHOLE = (TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32, TensorProto.INT64, TensorProto.UINT16,
          TensorProto.INT16, TensorProto.UINT32)  # fmt: skip


def narrow(model: onnx.ModelProto, file: Path, *, input_name: str = "", output_name: str = "") -> onnx.ModelProto:
    """Return a graph of one input, the image, and one output, the answer, with what the answer needs.

    Files of IR 3 list their weights among the inputs; here they are no longer.

    Args:
        model: Stays as it is.
        file: Its name, for messages.
        input_name: The input that is the image; empty if there is but one.
        output_name: The output, or a tensor inside, that is the answer; empty if there is but one output.

    Raises:
        SettingError: There is no tensor of the name.
        ArtifactError: There are several inputs or outputs, or they are nothing that a classifier has.
    """
    made = copy.deepcopy(model)
    graph = made.graph
    weights = {tensor.name for tensor in graph.initializer}
    images = [value for value in graph.input if value.name not in weights]
    if input_name and input_name not in {value.name for value in images}:
        raise SettingError(
            f"{file} has no input {input_name!r}.", hint=suggestion(input_name, [v.name for v in images])
        )
    answer = _answer(made, file, output_name)
    _keep_needed(graph, answer.name)
    needed = {name for node in graph.node for name in reads(node)} | {answer.name}
    images = [value for value in images if value.name in needed]
    chosen = [value for value in images if value.name == input_name] if input_name else images
    if len(images) != 1 or not chosen:
        raise ArtifactError(_other_inputs(file, images, answer.name), hint=_ONE_INPUT)
    if chosen[0].name == answer.name:
        raise ArtifactError(f"{file} answers with its input, {answer.name!r}.")
    _replace(graph.input, chosen)
    _replace(graph.output, [answer])
    made.ir_version = max(made.ir_version, 4)  # the first that allows for weights that are no inputs
    _check_image(chosen[0], file)
    return made


_ONE_INPUT = "Export it with the image as its only input, the others as constants."


def _other_inputs(file: Path, images: list[onnx.ValueInfoProto], answer: str) -> str:
    if not images:
        return f"The output {answer!r} of {file} does not depend on an image."
    names = ", ".join(repr(value.name) for value in images)
    return f"{file} has {len(images)} inputs ({names}); a classifier has one, the image."


def _answer(model: onnx.ModelProto, file: Path, name: str) -> onnx.ValueInfoProto:
    outputs = {value.name: value for value in model.graph.output}
    inside = [tensor for node in model.graph.node for tensor in node.output if tensor]
    if name and name not in outputs and name not in inside:
        raise SettingError(f"{file} has no tensor {name!r}.", hint=suggestion(name, [*outputs, *inside]))
    if not name and len(outputs) != 1:
        names = ", ".join(map(repr, outputs))
        raise ArtifactError(
            f"{file} has {len(outputs)} outputs ({names}); a classifier has one.",
            hint="Name the one with a number for each class: --output NAME.",
        )
    value = outputs[name or next(iter(outputs))] if (name or next(iter(outputs))) in outputs else _inner(model, name)
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise ArtifactError(
            f"The output {value.name!r} of {file} is no tensor ({(kind or 'unknown').removesuffix('_type')}).",
            hint="Name the tensor before it with --output: the one with a number for each class.",
        )
    if value.type.tensor_type.elem_type not in (*_FLOATS, TensorProto.UNDEFINED):
        raise ArtifactError(
            f"The output {value.name!r} of {file} is of type {_type(value)}, no number for each class.",
            hint="Name the tensor before it with --output: the one with a number for each class.",
        )
    return value


def _inner(model: onnx.ModelProto, name: str) -> onnx.ValueInfoProto:
    """Return a tensor within the graph as an output, of the type that it is found to have."""
    inferred = shape_inference.infer_shapes(model).graph.value_info
    return next((value for value in inferred if value.name == name), None) or helper.make_tensor_value_info(
        name, TensorProto.FLOAT, None
    )


def _keep_needed(graph: onnx.GraphProto, answer: str) -> None:
    needed, nodes = {answer}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed |= reads(node)
    _replace(graph.node, nodes[::-1])
    _replace(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed])


def _check_image(image: onnx.ValueInfoProto, file: Path) -> None:
    if image.type.WhichOneof("value") != "tensor_type":
        raise ArtifactError(f"The input {image.name!r} of {file} is no tensor.", hint=_ONE_INPUT)
    kind = image.type.tensor_type
    if kind.elem_type not in (*_FLOATS, *_WHOLE):
        raise ArtifactError(f"The input {image.name!r} of {file} is of type {_type(image)}, no image.")
    axes = len(kind.shape.dim)
    if axes != 4:
        what = "has no shape" if not kind.HasField("shape") else f"has {axes} axes"
        raise ArtifactError(
            f"The input {image.name!r} of {file} {what}; an image's has 4 axes: batch, channels, height, width.",
            hint="Export it with an input of 4 axes, the first of which is the batch.",
        )


def _type(value: onnx.ValueInfoProto) -> str:
    return str(TensorProto.DataType.Name(value.type.tensor_type.elem_type)).lower()


def layout_of(model: onnx.ModelProto, file: Path, given: str | None) -> str:
    """Return the order of the image's axes, "nchw" or "nhwc".

    Args:
        model: What `narrow` returned.
        file: Its name, for messages.
        given: What the user says; None to find it.

    Raises:
        ArtifactError: The image has another number of channels than three.
    """
    image = model.graph.input[0]
    dims = [d.dim_value for d in image.type.tensor_type.shape.dim]
    if given is None:
        last = dims[1] != 3 and (dims[3] == 3 or (dims[1] == 0 == dims[3] and _turns(model, image.name)))
        last = last or (dims[1] not in (1, 3, 4) and dims[3] in (1, 4))
        given = "nhwc" if last else "nchw"
    count = dims[3] if given == "nhwc" else dims[1]
    if count not in (0, 3):
        what = "one channel (grey)" if count == 1 else f"{count} channels"
        other = "nchw" if given == "nhwc" else "nhwc"
        place = dims[1] if given == "nhwc" else dims[3]
        raise ArtifactError(
            f"{file} takes images of {what}, {_shape(dims)} in the layout {given}; tlopt feeds three channels.",
            hint=f"Its other end has 3 channels: --layout {other}."
            if place == 3
            else "Put a layer in front that makes its channels of red, green and blue, and export it again.",
        )
    return given


def _turns(model: onnx.ModelProto, name: str) -> bool:
    """Whether the channels are moved to the front first, as converters of TensorFlow's networks do."""
    readers = [node for node in model.graph.node if name in node.input]
    perms = [list(a.ints) for node in readers if node.op_type == "Transpose" for a in node.attribute]
    return len(readers) == 1 and perms == [[0, 3, 1, 2]]


def _shape(dims: list[int]) -> str:
    return f"({', '.join(str(d) if d else 'n' for d in dims)})"


def side_of(model: onnx.ModelProto, file: Path, layout: str, size: int | None) -> int | None:
    """Return the side of the square image in pixels, None if neither the file nor the user says it.

    Raises:
        ArtifactError: The file takes images of another size, or none that is square.
    """
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    sides = dims[1:3] if layout == "nhwc" else dims[2:4]
    wanted = size or next((side for side in sides if side), None)
    if any(side and side != wanted for side in sides):
        height, width = (str(side) if side else "any number of" for side in sides)
        raise ArtifactError(
            f"{file} takes images of {height} x {width} pixels; the chosen size is {wanted}.",
            hint="Only square inputs are supported; leave --image-size out to take the file's own.",
        )
    return wanted


def whole(model: onnx.ModelProto) -> bool:
    """Whether the image consists of whole numbers: of pixels of 0 to 255."""
    return model.graph.input[0].type.tensor_type.elem_type in _WHOLE


def pixels(model: onnx.ModelProto) -> bool:
    """Whether the image is of uint8."""
    return bool(model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8)


def feed_floats(model: onnx.ModelProto) -> None:
    """Let the graph take its image in float32, in place: another type is cast inside."""
    graph, taken = model.graph, _taken(model.graph)
    image = graph.input[0]
    kind = image.type.tensor_type.elem_type
    if kind == TensorProto.FLOAT:
        return
    fed, steps = _free("tlopt.image", taken), []
    last = fed
    if kind in _WHOLE:  # a cast cuts off: what is a hair below a whole number would lose 1
        half, raised, floor = (_free(f"tlopt.image.{name}", taken) for name in ("half", "raised", "floor"))
        graph.initializer.append(helper.make_tensor(half, TensorProto.FLOAT, [], [0.5]))
        steps += [helper.make_node("Add", [fed, half], [raised]), helper.make_node("Floor", [raised], [floor])]
        last = floor
    steps.append(helper.make_node("Cast", [last], [image.name], to=kind))
    nodes = [*steps, *graph.node]
    shape = copy.deepcopy(image.type.tensor_type.shape)
    image.CopyFrom(helper.make_tensor_value_info(fed, TensorProto.FLOAT, None))
    image.type.tensor_type.shape.CopyFrom(shape)
    _replace(graph.node, nodes)


def answer_floats(model: onnx.ModelProto) -> None:
    """Let the graph answer in float32, in place: another type is cast inside."""
    graph = model.graph
    answer = graph.output[0]
    name = answer.name
    if answer.type.tensor_type.elem_type not in (TensorProto.FLOAT, TensorProto.UNDEFINED):
        name = _free("tlopt.answer", _taken(graph))
        graph.node.append(helper.make_node("Cast", [answer.name], [name], to=TensorProto.FLOAT))
    # What a file declares of its answer's shape may be wrong; the shape is found out.
    answer.CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))


def end_in(model: onnx.ModelProto, kind: str, width: int) -> None:
    """Let the graph end in rows of one number for each class, in place.

    Args:
        model: Its output holds such numbers, with other axes of length 1.
        kind: "Flatten" keeps the first axis, "Reshape" puts one before.
        width: How many numbers there are for an image.
    """
    graph = model.graph
    answer, taken = graph.output[0], _taken(graph)
    name, inputs = _free("tlopt.rows", taken), [answer.name]
    if kind == "Reshape":
        shape = _free("tlopt.rows.shape", taken)
        graph.initializer.append(helper.make_tensor(shape, TensorProto.INT64, [2], [1, -1]))
        graph.node.append(helper.make_node("Reshape", [*inputs, shape], [name]))
    else:
        graph.node.append(helper.make_node("Flatten", inputs, [name], axis=1))
    answer.CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]))


def _taken(graph: onnx.GraphProto) -> set[str]:
    names = {name for node in graph.node for name in (*reads(node), *node.output)}
    return names | {value.name for value in (*graph.input, *graph.output, *graph.initializer)}


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _replace(field: object, items: list[object] | list[onnx.NodeProto] | list[onnx.ValueInfoProto]) -> None:
    kept = [copy.deepcopy(item) for item in items]
    del field[:]  # type: ignore[attr-defined]
    field.extend(kept)  # type: ignore[attr-defined]
