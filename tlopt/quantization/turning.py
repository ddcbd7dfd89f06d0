"""Which convolutions stay float, so that ONNX Runtime does not turn the axes of an operator that it cannot turn.

ONNX Runtime computes integer convolutions with the channels last, and turns the axes of the operators between them.
ONNX Runtime 1.32 turns some wrongly, and the graph cannot be opened or fails as it runs:

- A Resize that names its axes, or is cubic and makes the image smaller.
- A CenterCropPad, and any other operator that it writes out in simpler ones that look at shapes.

`tlopt.graphs.cleaning` spells out most axes that a Resize names. Those that keep the aspect ratio stay.
"""

from __future__ import annotations

import onnx

from tlopt.graphs.view import WEIGHTED, View, attribute

_CUBIC = b"cubic"


def before_fixed_axes(view: View) -> set[str]:
    """Return the names of the convolutions whose results reach, by other operators alone, one that cannot be turned."""
    waiting = [name for node in view.nodes if _cannot_be_turned(view, node) for name in node.input[:1]]
    seen: set[str] = set()
    found: set[str] = set()
    while waiting:
        tensor = waiting.pop()
        node = view.producer.get(tensor)
        if node is None or tensor in seen:
            continue
        seen.add(tensor)
        if node.op_type in WEIGHTED:
            found.add(node.name)
        else:
            waiting += node.input
    return found


def _cannot_be_turned(view: View, node: onnx.NodeProto) -> bool:
    if node.op_type == "CenterCropPad":
        return True
    if node.op_type != "Resize":
        return False
    return attribute(node, "axes") is not None or (attribute(node, "mode") == _CUBIC and _shrinks(view, node))


def _shrinks(view: View, node: onnx.NodeProto) -> bool:
    """Whether a Resize makes an image smaller along an axis, or may."""
    factors = view.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if factors is not None and factors.size:
        return bool((factors < 1).any())
    before, after = view.shape(node.input[0]), view.shape(node.output[0])
    known = len(before) == len(after) > 2 and all(before[2:]) and all(after[2:])
    return not known or any(new < old for old, new in zip(before[2:], after[2:], strict=True))
