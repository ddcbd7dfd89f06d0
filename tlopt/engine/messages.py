"""What TensorRT says while it works: to Python's logging, and into readable errors."""

from __future__ import annotations

import functools
import logging
import re
from typing import Any
from weakref import WeakSet

from tlopt.errors import StageError

log = logging.getLogger(__name__)

# Failures that follow from there being no GPU and say nothing about the network.
_NOISE = ("catchCudaError", "CUDA driver version is insufficient")


class Messages:
    """Collects what TensorRT says as long as this object lives; `logger` is what its classes take.

    Attributes:
        errors: The library's errors so far, without their source locations.
        layers: The layer listing of the last engine built, empty if the builder printed none.
    """

    def __init__(self, api: Any) -> None:
        self.errors: list[str] = []
        self.layers = ""
        self.logger = _logger(api)
        _listening.add(self)

    def last(self) -> str:
        """Return the error that came last, empty if none did."""
        return self.errors[-1] if self.errors else ""


_listening: WeakSet[Messages] = WeakSet()


@functools.cache
def _logger(api: Any) -> Any:
    """Return the library's one logger.

    It has one per process: while anything of it lives, a second logger is ignored. So all
    messages come here, and go to whoever listens. The class exists only once the library does.
    """

    class Logger(api.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            api.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            take(severity.name, text)

    return Logger()


def take(level: str, text: str) -> None:
    """Take one message of a level ("VERBOSE" … "INTERNAL_ERROR")."""
    if level in ("ERROR", "INTERNAL_ERROR"):
        # Not logged as an error: the exception that quotes it reaches the user, and once is enough.
        log.info("%s", text)
        if not any(noise in text for noise in _NOISE):
            for messages in tuple(_listening):
                messages.errors.append(_without_location(text))
    elif level == "WARNING":
        log.warning("%s", text)
    else:
        log.debug("%s", text)
        if text.startswith("Layers:"):
            for messages in tuple(_listening):
                messages.layers = text


def _without_location(text: str) -> str:
    text = re.sub(r"\s+In \S+ at \S+:\d+\)", ")", text)
    return re.sub(r"^\S+::\S+: Error Code \d+: ", "", text).strip()


def parse_error(errors: list[Any], where: str) -> StageError:
    """Return one readable error for what TensorRT's ONNX parser refused.

    Args:
        errors: The parser's `ParserError`s.
        where: The ONNX file.
    """
    if not errors:
        return StageError(f"TensorRT cannot read {where}.", hint="Run with -v for the parser's log.")
    first = errors[0]
    code = str(first.code()).rpartition(".")[2]
    name, operator, detail = first.node_name(), first.node_operator(), first.desc().strip()
    more = f" ({len(errors) - 1} more refused.)" if len(errors) > 1 else ""
    if first.node() < 0 or not operator:
        if code == "MODEL_DESERIALIZE_FAILED":
            return StageError(f"{where} is not a readable ONNX file.", hint="Export the model again.")
        return StageError(f"TensorRT refuses {where}: {detail}{more}", hint="Run with -v for the parser's log.")
    node = f"node {name!r} (number {first.node()}, operator {operator})"
    if code == "INVALID_NODE" and "Plugin not found" in detail:
        return StageError(
            f"TensorRT does not know the operator {operator} of {node} in {where}.{more}",
            hint="Export with a standard operator in its place, or replace the module that makes it.",
        )
    said = "" if detail in ("", "false") else f": {detail}"
    hint = _PARSE_HINTS.get(code, "Run with -v for the parser's log; the node's inputs are listed there.")
    return StageError(f"TensorRT cannot take {node} in {where}{said}.{more}", hint=hint)


_PARSE_HINTS = {
    "UNSUPPORTED_NODE": "Export with another operator in its place; ONNX Runtime and OpenVINO may still run the file.",
    "UNSUPPORTED_NODE_ATTR": "Change the node's attribute in the model, or export with another opset.",
    "UNSUPPORTED_NODE_DATATYPE": "Cast the node's inputs to a type that TensorRT computes in: fp32, fp16 or bf16.",
    "UNSUPPORTED_NODE_DYNAMIC": "Export with a fixed image size: only the batch may vary.",
    "UNSUPPORTED_NODE_SHAPE": "Export with a fixed image size: only the batch may vary.",
    "INVALID_GRAPH": "Check the file with onnx.checker.check_model and export it again.",
}
