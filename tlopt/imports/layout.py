"""How the image lies in a graph's input: the order of its axes, its channels and its sides."""

from __future__ import annotations

from pathlib import Path

import onnx

from tlopt.errors import ArtifactError


def layout_of(model: onnx.ModelProto, file: Path, given: str | None) -> str:
    """Return the order of the image's axes, "nchw" or "nhwc".

    Args:
        model: what `interface.narrow` returned.
        file: Its name, for messages.
        given: What the user says; None to find it.

    Raises:
        ArtifactError: The image has another number of channels than three or one.
    """
    image = model.graph.input[0]
    dims = [d.dim_value for d in image.type.tensor_type.shape.dim]
    if given is None:
        last = dims[1] != 3 and (dims[3] == 3 or (dims[1] == 0 == dims[3] and _turns(model, image.name)))
        last = last or (dims[1] not in (1, 3, 4) and dims[3] in (1, 4))
        given = "nhwc" if last else "nchw"
    count = dims[3] if given == "nhwc" else dims[1]
    if count not in (0, 1, 3):
        other = "nchw" if given == "nhwc" else "nhwc"
        place = dims[1] if given == "nhwc" else dims[3]
        raise ArtifactError(
            f"{file} takes images of {count} channels, {_shape(dims)} in the layout {given}; tlopt feeds 3 or 1.",
            hint=f"The {'second' if other == 'nchw' else 'last'} axis has the length 3. Try --layout {other}."
            if place == 3
            else "Add a first layer that computes its channels from red, green and blue, and export it again.",
        )
    return given


def is_grey(model: onnx.ModelProto, layout: str) -> bool:
    """Whether the image has one channel."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    return bool(dims[3 if layout == "nhwc" else 1].dim_value == 1)


def _turns(model: onnx.ModelProto, name: str) -> bool:
    """Whether the channels are moved to the front first, as converters of TensorFlow's networks do."""
    readers = [node for node in model.graph.node if name in node.input]
    perms = [list(a.ints) for node in readers if node.op_type == "Transpose" for a in node.attribute]
    return len(readers) == 1 and perms == [[0, 3, 1, 2]]


def _shape(dims: list[int]) -> str:
    return f"({', '.join(str(d) if d else 'n' for d in dims)})"


def sides_of(
    model: onnx.ModelProto, file: Path, layout: str, size: int | None, width: int | None, *, free: bool = False
) -> tuple[int, int] | None:
    """Return height and width of the image in pixels, None if neither the file nor the user says them.

    Args:
        model: what `interface.narrow` returned.
        file: Its name, for messages.
        layout: Order of the image's axes.
        size: Height, or side of a square, that the user says.
        width: Width that the user says.
        free: Take what the user says, whatever the file declares.

    Raises:
        ArtifactError: The file takes images of another size.
    """
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    sides = dims[1:3] if layout == "nhwc" else dims[2:4]
    known = next((side for side in sides if side), None)
    height = size or (None if free and width else sides[0]) or known or width
    wide = width or size or sides[1] or known
    if height is None or wide is None:
        return None
    if not free and any(side and side != wanted for side, wanted in zip(sides, (height, wide), strict=True)):
        told = " x ".join(str(side) if side else "any" for side in sides)
        raise ArtifactError(
            f"{file} takes images of {told} pixels; the chosen size is {height} x {wide}.",
            hint="Leave --image-size out to take the file's own.",
        )
    return height, wide
