"""Which tensor of a graph is the image, and which is the answer."""

from __future__ import annotations

import copy
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from tlopt.errors import ArtifactError, SettingError, suggestion
from tlopt.graphs.cleaning import with_shapes
from tlopt.graphs.naming import free_name, taken_names
from tlopt.graphs.nesting import needed, reads

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
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
    keep(made, file, [_answer(made, file, output_name)], input_name)
    return made


def keep(made: onnx.ModelProto, file: Path, answers: list[onnx.ValueInfoProto], input_name: str = "") -> None:
    """Reduce a graph to one input, the image, and to some outputs, with what these need, in place.

    Args:
        made: The graph.
        file: Its name, for messages.
        answers: The outputs.
        input_name: The input that is the image; empty if there is but one.

    Raises:
        SettingError: There is no input of the name.
        ArtifactError: The outputs need several inputs, or none, or the input is no image.
    """
    graph, names = made.graph, [answer.name for answer in answers]
    weights = {tensor.name for tensor in graph.initializer}
    images = [value for value in graph.input if value.name not in weights]
    if input_name and input_name not in {value.name for value in images}:
        raise SettingError(
            f"{file} has no input {input_name!r}.", hint=suggestion(input_name, [v.name for v in images])
        )
    _keep_needed(graph, names)
    needed = {name for node in graph.node for name in reads(node)} | set(names)
    images = [value for value in images if value.name in needed]
    chosen = [value for value in images if value.name == input_name] if input_name else images
    if len(images) != 1 or not chosen:
        raise ArtifactError(_other_inputs(file, images, names[0]), hint=_ONE_INPUT)
    if chosen[0].name in names:
        raise ArtifactError(f"The output of {file} is its own input, {chosen[0].name!r}.")
    replace_all(graph.input, chosen)
    replace_all(graph.output, answers)
    made.ir_version = max(made.ir_version, 4)  # the first that allows for weights that are no inputs
    _check_image(chosen[0], file)


_ONE_INPUT = "Export it with the image as its only input, the others as constants."


def _other_inputs(file: Path, images: list[onnx.ValueInfoProto], answer: str) -> str:
    if not images:
        return f"The output {answer!r} of {file} does not depend on an image."
    names = ", ".join(repr(value.name) for value in images)
    return f"{file} has {len(images)} inputs ({names}); tlopt feeds one, the image."


def _answer(model: onnx.ModelProto, file: Path, name: str) -> onnx.ValueInfoProto:
    outputs = {value.name: value for value in model.graph.output}
    inside = [tensor for node in model.graph.node for tensor in node.output if tensor]
    if name and name not in outputs and name not in inside:
        raise SettingError(f"{file} has no tensor {name!r}.", hint=suggestion(name, [*outputs, *inside]))
    if not name and len(outputs) != 1:
        names = ", ".join(map(repr, outputs))
        raise ArtifactError(
            f"{file} has {len(outputs)} outputs ({names}); a classifier has one.",
            hint="Name the one with a number for each class: --output NAME. If there is none: --task any.",
        )
    value = tensor_of(model, name or next(iter(outputs)))
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise ArtifactError(
            f"The output {value.name!r} of {file} is no tensor ({(kind or 'unknown').removesuffix('_type')}).",
            hint="Name the tensor before it with --output: the one with a number for each class.",
        )
    if value.type.tensor_type.elem_type not in (*FLOATS, TensorProto.UNDEFINED):
        raise ArtifactError(
            f"The output {value.name!r} of {file} is of type {_type(value)}; a classifier answers with floats.",
            hint="Name the tensor before it with --output: the one with a number for each class.",
        )
    return value


def tensor_of(model: onnx.ModelProto, name: str) -> onnx.ValueInfoProto:
    """Return an output, or a tensor within the graph as one, of the type that it is found to have."""
    if (known := {value.name: value for value in model.graph.output}).get(name) is not None:
        return known[name]
    inferred = with_shapes(model).graph.value_info
    return next((value for value in inferred if value.name == name), None) or helper.make_tensor_value_info(
        name, TensorProto.FLOAT, None
    )


def _keep_needed(graph: onnx.GraphProto, answers: list[str]) -> None:
    nodes = needed(graph.node, answers)
    read = set(answers).union(*map(reads, nodes))
    replace_all(graph.node, nodes)
    replace_all(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in read])


def _check_image(image: onnx.ValueInfoProto, file: Path) -> None:
    if image.type.WhichOneof("value") != "tensor_type":
        raise ArtifactError(f"The input {image.name!r} of {file} is no tensor.", hint=_ONE_INPUT)
    kind = image.type.tensor_type
    if kind.elem_type not in (*FLOATS, *_WHOLE):
        raise ArtifactError(f"The input {image.name!r} of {file} is of type {_type(image)}; an image holds numbers.")
    axes = len(kind.shape.dim)
    if axes != 4:
        what = "has no shape" if not kind.HasField("shape") else f"has {axes} axes"
        raise ArtifactError(
            f"The input {image.name!r} of {file} {what}; an image's has 4 axes: batch, channels, height, width.",
            hint="Export it with an input of 4 axes, the first of which is the batch.",
        )


def _type(value: onnx.ValueInfoProto) -> str:
    return str(TensorProto.DataType.Name(value.type.tensor_type.elem_type)).lower()


def whole(model: onnx.ModelProto) -> bool:
    """Whether the image consists of whole numbers: of pixels of 0 to 255."""
    return model.graph.input[0].type.tensor_type.elem_type in _WHOLE


def pixels(model: onnx.ModelProto) -> bool:
    """Whether the image is of uint8."""
    return bool(model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8)


def feed_floats(model: onnx.ModelProto) -> None:
    """Let the graph take its image in float32, in place: another type is cast inside."""
    graph, taken = model.graph, taken_names(model.graph)
    image = graph.input[0]
    kind = image.type.tensor_type.elem_type
    if kind == TensorProto.FLOAT:
        return
    fed, steps = free_name("tlopt.image", taken), []
    last = fed
    if kind in _WHOLE:  # a cast cuts off: what is a hair below a whole number would lose 1
        half, raised, floor = (free_name(f"tlopt.image.{name}", taken) for name in ("half", "raised", "floor"))
        graph.initializer.append(helper.make_tensor(half, TensorProto.FLOAT, [], [0.5]))
        steps += [helper.make_node("Add", [fed, half], [raised]), helper.make_node("Floor", [raised], [floor])]
        last = floor
    steps.append(helper.make_node("Cast", [last], [image.name], to=kind))
    nodes = [*steps, *graph.node]
    shape = copy.deepcopy(image.type.tensor_type.shape)
    image.CopyFrom(helper.make_tensor_value_info(fed, TensorProto.FLOAT, None))
    image.type.tensor_type.shape.CopyFrom(shape)
    replace_all(graph.node, nodes)


def answer_floats(model: onnx.ModelProto) -> None:
    """Let the graph answer in float32, in place: another type is cast inside."""
    graph = model.graph
    answer = graph.output[0]
    name = answer.name
    if answer.type.tensor_type.elem_type not in (TensorProto.FLOAT, TensorProto.UNDEFINED):
        name = free_name("tlopt.answer", taken_names(graph))
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
    answer, taken = graph.output[0], taken_names(graph)
    name, inputs = free_name("tlopt.rows", taken), [answer.name]
    if kind == "Reshape":
        shape = free_name("tlopt.rows.shape", taken)
        graph.initializer.append(helper.make_tensor(shape, TensorProto.INT64, [2], [1, -1]))
        graph.node.append(helper.make_node("Reshape", [*inputs, shape], [name]))
    else:
        graph.node.append(helper.make_node("Flatten", inputs, [name], axis=1))
    answer.CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]))


def replace_all(field: object, items: list[object] | list[onnx.NodeProto] | list[onnx.ValueInfoProto]) -> None:
    """Put other items, or some of the same, into a repeated field."""
    kept = [copy.deepcopy(item) for item in items]
    del field[:]  # type: ignore[attr-defined]
    field.extend(kept)  # type: ignore[attr-defined]
