"""Activation functions are found however they are written."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tlopt.graphs.activations import activation, function, with_gelu
from tlopt.graphs.cleaning import clean
from tlopt.graphs.view import View
from tlopt.sessions import open_session

VALUES = np.linspace(-6, 6, 101, dtype=np.float32)


def number(b, value):
    return b.constant(np.float32(value))


def silu(b, x):
    return b.node("Mul", x, b.node("Sigmoid", x))


def hard_swish(b, x):
    wide = b.node("Clip", b.node("Add", x, number(b, 3)), number(b, 0), number(b, 6))
    return b.node("Div", b.node("Mul", x, wide), number(b, 6))


def gelu_of_torch(b, x):
    """As torch's exporter writes it."""
    half = b.node("Erf", b.node("Div", x, number(b, np.sqrt(2))))
    return b.node("Mul", x, b.node("Mul", number(b, 0.5), b.node("Add", half, number(b, 1))))


def gelu_of_keras(b, x):
    half = b.node("Erf", b.node("Mul", x, number(b, np.sqrt(0.5))))
    return b.node("Mul", b.node("Mul", x, number(b, 0.5)), b.node("Add", number(b, 1), half))


def gelu_tanh(b, x):
    cubed = b.node("Mul", b.node("Pow", x, number(b, 3)), number(b, 0.044715))
    inner = b.node("Tanh", b.node("Mul", b.node("Add", x, cubed), number(b, np.sqrt(2 / np.pi))))
    return b.node("Mul", b.node("Mul", x, number(b, 0.5)), b.node("Add", inner, number(b, 1)))


def not_gelu(b, x):
    half = b.node("Erf", b.node("Mul", x, number(b, 0.3)))
    return b.node("Mul", x, b.node("Add", half, number(b, 1)))


GELUS = {"torch": gelu_of_torch, "keras": gelu_of_keras, "tanh": gelu_tanh}


def graph(b, write):
    """Return a network with a function between two convolutions, and the tensors before and after it."""
    before = b.conv("images", 3, 4)
    after = write(b, before)
    return View(clean(b.model(b.head(b.conv(after, 4, 4), 4)))), before, after


@pytest.mark.parametrize(
    ("write", "expected"),
    [(silu, lambda x: x / (1 + np.exp(-x))), (hard_swish, lambda x: x * np.clip(x + 3, 0, 6) / 6)],
)
def test_a_function_of_several_nodes_is_one_activation(builder, write, expected):
    view, before, after = graph(builder, write)
    found = activation(view, before)
    assert found is not None
    assert found.output == after
    np.testing.assert_allclose(function(view, found)(VALUES), expected(VALUES), atol=1e-6)


def test_a_tensor_that_something_else_reads_too_has_no_activation(builder):
    view, before, _ = graph(builder, lambda b, x: b.node("Add", b.conv(x, 4, 4), silu(b, x)))
    assert activation(view, before) is None


def test_a_gate_of_another_tensor_is_no_part_of_an_activation(builder):
    gates = []

    def gated(b, x):
        plane = b.conv(b.node("GlobalAveragePool", x), 4, 4, kernel=1)
        gates.append((plane, b.node("Sigmoid", plane)))
        return b.node("Mul", x, gates[0][1])

    view, before, _ = graph(builder, gated)
    plane, gate = gates[0]
    found = activation(view, plane)
    assert found is not None
    assert found.output == gate
    assert activation(view, before) is None


@pytest.mark.parametrize("name", GELUS)
def test_gelu_becomes_one_node_however_it_is_written(builder, name, photos_like):
    view, _, _ = graph(builder, GELUS[name])
    made = with_gelu(view)
    kinds = [node.op_type for node in made.nodes]
    assert kinds.count("Gelu") == 1
    assert not {"Erf", "Tanh", "Mul"} & set(kinds)
    onnx.checker.check_model(made.model, full_check=True)
    before, after = (open_session(v.model).run(None, {"images": photos_like})[0] for v in (view, made))
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_what_only_looks_like_gelu_stays(builder):
    view, _, _ = graph(builder, not_gelu)
    assert with_gelu(view) is view
