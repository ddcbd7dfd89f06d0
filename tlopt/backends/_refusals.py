"""What OpenVINO says when it does not take a graph, in one line that names the operator."""

from __future__ import annotations

import re

HINT = "ONNX Runtime can run it: --backend onnxruntime, and --for onnxruntime to quantize it."
_NO_RULE = re.compile(r"No conversion rule found for operations: *(.+)")
_FAILED = re.compile(r"^-- (\S+?)(?:-\d+)? with a message:\n(.*?)(?=^-- |^Summary:|\Z)", re.MULTILINE | re.DOTALL)
_OPSET = re.compile(r"-\d+(?=,|\s|$)")
_BEHIND = "rank has to be known"  # said of operators that read the result of one that failed


def operators(message: str) -> str:
    """Return which operators OpenVINO does not take, and why; empty if a message does not tell.

    The form is that of OpenVINO 2026.4.

    Args:
        message: Of the exception, of many lines.
    """
    if missing := _NO_RULE.search(message):
        return f"it has no operator {_OPSET.sub('', missing[1]).strip()}"
    failed = [(name, _last(said)) for name, said in _FAILED.findall(message)]
    first = [(name, said) for name, said in failed if _BEHIND not in said] or failed
    return "; ".join(f"it does not take the operator {name}: {said}" for name, said in first)


def reason(error: Exception) -> str:
    """Return why OpenVINO failed: the operators, or the last line. The lines before name places in its source."""
    return operators(str(error)) or _last(str(error)) or type(error).__name__


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
