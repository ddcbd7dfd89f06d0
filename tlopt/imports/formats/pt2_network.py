"""The nodes of a program of torch.export as a network that torch runs and exports.

Only operators of torch's own library ``aten`` run that compute on tensors and numbers, and arithmetic of lengths.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tlopt.errors import ArtifactError
from tlopt.imports.formats.pt2_archive import DTYPES, Program
from tlopt.reading.names import shown_name

_ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
# Texts that choose how something is computed. An operator that takes another text may reach a file: from_file does.
_WORDS = frozenset(
    {"approximate", "equation", "indexing", "interpolation", "mode", "norm", "ord", "padding", "padding_side", "reduce",
     "rounding_mode", "side"}
)  # fmt: skip
# They check what is known of a length, and give nothing.
_CHECKS = ("_assert_scalar", "_assert_tensor_metadata", "_assert_async", "sym_constrain_range",
           "sym_constrain_range_for_size")  # fmt: skip
_LENGTHS: Mapping[str, Callable[..., Any]] = {
    **{f"_operator.{name}": getattr(operator, name) for name in
       ("eq", "ne", "le", "ge", "lt", "gt", "neg", "pos", "mul", "add", "sub", "floordiv", "truediv", "mod", "and_",
        "or_")},
    "math.trunc": math.trunc, "torch.sym_not": torch.sym_not, "torch.sym_int": torch.sym_int,
    "torch.sym_float": torch.sym_float, "torch.sym_max": torch.sym_max, "torch.sym_min": torch.sym_min,
}  # fmt: skip
_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format}
_PLAIN = ("as_int", "as_float", "as_bool", "as_string", "as_ints", "as_floats", "as_bools", "as_strings",
          "as_int_lists")  # fmt: skip
_NUMBERED: Mapping[str, Mapping[int, Any]] = {
    "as_scalar_type": DTYPES, "as_memory_format": _FORMATS, "as_layout": {7: torch.strided},
}  # fmt: skip
_LINKS = ("as_sym_int", "as_sym_float", "as_sym_bool")

Values = Mapping[str, Any]
Argument = Callable[[Values], Any]  # what was computed so far -> the value


class Network(nn.Module):
    """A network that computes node after node.

    Args:
        program: What to compute.
        file: Its name, for messages.

    Raises:
        ArtifactError: A node is no operator that may run.
    """

    def __init__(self, program: Program, file: Path) -> None:
        super().__init__()
        self._image, self._outputs = program.image, program.outputs
        self._stored = {name: f"tensor_{place}" for place, name in enumerate(program.tensors)}
        for name, tensor in program.tensors.items():
            self.register_buffer(self._stored[name], tensor)
        self._versions = [tensor._version for tensor in self.buffers()]
        self._steps = [step for node in program.nodes if (step := _step(node, file)) is not None]

    @property
    def changed(self) -> bool:
        """Whether a run has changed what is stored: a count of images, or statistics as in training."""
        return self._versions != [tensor._version for tensor in self.buffers()]

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the answers to images of the shape that the program takes."""
        values: dict[str, Any] = {name: getattr(self, own) for name, own in self._stored.items()}
        values[self._image] = images
        for call, outputs in self._steps:
            found = call(values)
            several = found if len(outputs) > 1 else (found,)
            for output, value in zip(outputs, several, strict=True):
                _keep(output, value, values)
        return tuple(values[name] for name in self._outputs)


def _step(node: Mapping[str, Any], file: Path) -> tuple[Argument, list[Any]] | None:
    """Return a node as a call and where its results go; None if it only checks."""
    target = node["target"]
    given = [(one["name"], _argument(one["arg"], file)) for one in node["inputs"]]
    if target in _LENGTHS:
        function = _LENGTHS[target]
        return lambda values: function(*(argument(values) for _, argument in given)), node["outputs"]
    found = _ATEN.fullmatch(target)
    if found and found[1] in _CHECKS:
        return None
    call = getattr(getattr(torch.ops.aten, found[1], None), found[2], None) if found else None
    if not isinstance(call, torch._ops.OpOverload) or not _computes(call):
        raise ArtifactError(
            f"{file} holds {shown_name(target)}. Only operators of torch that compute are run.",
            hint="Export the network to ONNX where its code is, and import the ONNX file.",
        )
    outputs = [] if node["outputs"] == [{"as_none": True}] else node["outputs"]
    return lambda values: call(**{name: argument(values) for name, argument in given}), outputs


def _computes(call: torch._ops.OpOverload) -> bool:
    return all("str" not in str(one.type) or one.name in _WORDS for one in call._schema.arguments)


def _argument(given: Mapping[str, Any], file: Path) -> Argument:
    [(kind, value)] = given.items()
    if kind in _PLAIN:
        return lambda _: value
    if kind == "as_none":
        return lambda _: None
    if kind in ("as_tensor", "as_optional_tensor"):
        return _tensor(value if kind == "as_tensor" else value.get("as_tensor"))
    if kind in ("as_tensors", "as_optional_tensors"):
        names = [_tensor(one if kind == "as_tensors" else one.get("as_tensor")) for one in value]
        return lambda values: [name(values) for name in names]
    if kind in _LINKS:
        return _number(value)
    if kind in [f"{one}s" for one in _LINKS]:
        numbers = [_number(one) for one in value]
        return lambda values: [number(values) for number in numbers]
    if kind in _NUMBERED and value in _NUMBERED[kind]:
        return lambda _: _NUMBERED[kind][value]
    if kind == "as_device":
        return lambda _: torch.device("cpu")
    raise ArtifactError(
        f"{file} holds an argument that is not read: {shown_name(kind.removeprefix('as_').replace('_', ' '))}.",
        hint="Export the network to ONNX where its code is, and import the ONNX file.",
    )


def _tensor(found: Mapping[str, Any] | None) -> Argument:
    if found is None:
        return lambda _: None
    name = found["name"]
    return lambda values: values[name]


def _number(found: Mapping[str, Any]) -> Argument:
    """Return a number that is stored, or computed by another node."""
    [(kind, value)] = found.items()
    return (lambda values: values[value]) if kind == "as_name" else (lambda _: value)


def _keep(output: Mapping[str, Any], value: Any, values: dict[str, Any]) -> None:
    [(kind, found)] = output.items()
    if kind == "as_tensor":
        values[found["name"]] = value
    elif kind in _LINKS:
        values[found["as_name"]] = value
    elif kind == "as_tensors":
        for one, part in zip(found, value, strict=True):
            values[one["name"]] = part
    elif kind != "as_none":
        raise ValueError(f"a node gives {kind}")
