"""What the numbers mean that a graph answers: logits, or probabilities already."""

from __future__ import annotations

import logging

import numpy as np
import onnx

from tlopt.cards.details import AnswerKind
from tlopt.judging import are_probabilities, between

log = logging.getLogger(__name__)

# They change the form of answers, or round them, and not what they mean.
_PASSING = frozenset(
    {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Dropout", "Transpose", "QuantizeLinear",
     "DequantizeLinear", "Clip"}
)  # fmt: skip
_ENDS: dict[str, AnswerKind] = {
    "Softmax": "probabilities", "QLinearSoftmax": "probabilities", "LogSoftmax": "log_probabilities",
    "Sigmoid": "sigmoids", "HardSigmoid": "sigmoids", "QLinearSigmoid": "sigmoids",
}  # fmt: skip
_EXACT = 2e-3  # of a sum of probabilities from 1: half precision sums up a thousand classes that well
_ROUNDED = 0.1  # the same where the graph says that it is a softmax, which may be rounded to 8 bits
_SURE = 1e-6  # beyond 0 and 1: a kernel's last digit


def kind_of(model: onnx.ModelProto, answers: np.ndarray) -> AnswerKind:
    """Return what the numbers of a graph's output mean.

    Rows that are probabilities on every input are, however the graph spells the softmax. Probabilities of single
    classes are those of a sigmoid at the end.

    Args:
        model: The graph.
        answers: float (n, classes), what it answered on inputs of several kinds.
    """
    end = _end(model.graph)
    if are_probabilities(answers, within=_ROUNDED if end == "probabilities" else _EXACT):
        return "probabilities"
    answers = answers.astype(np.float64)
    if (answers <= _SURE).all() and np.abs(np.exp(answers).sum(1) - 1).max() <= _EXACT:
        return "log_probabilities"
    if between(answers) and end == "sigmoids":
        return "sigmoids"
    if end is not None:
        kind = end.replace("_", "-")
        log.warning("The graph ends in an operator for %s, but its outputs are not %s. They are taken for logits. "
                    "--answers sets what they are.", kind, kind)  # fmt: skip
    return "logits"


def _end(graph: onnx.GraphProto) -> AnswerKind | None:
    """Return what the last operator that computes something makes, None if it is none of these."""
    producers = {name: node for node in graph.node for name in node.output}
    node = producers.get(graph.output[0].name)
    while node is not None and node.op_type in _PASSING:
        node = producers.get(node.input[0])
    if node is None:
        return None
    return _ENDS.get(node.op_type) or ("sigmoids" if _spelled(node, producers) else None)


def _spelled(node: onnx.NodeProto, producers: dict[str, onnx.NodeProto]) -> bool:
    """Whether a node ends 1 / (1 + exp(-x))."""
    if node.op_type not in ("Div", "Reciprocal"):
        return False
    below = producers.get(node.input[-1])
    while below is not None and below.op_type in _PASSING:
        below = producers.get(below.input[0])
    if below is None or below.op_type != "Add":
        return False
    parts = [producers.get(name) for name in below.input]
    return any(part is not None and part.op_type == "Exp" for part in parts)
