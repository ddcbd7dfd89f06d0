"""Folding leaves what a graph computes, and no constant arithmetic beside its weights."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tlopt.graphs.cleaning import clean
from tlopt.graphs.rewriting.constants import fold_parameters
from tlopt.graphs.rewriting.folding import fold

ARITHMETIC = {"BatchNormalization", "Mul", "Add", "Sub", "Div", "Sum", "Neg"}


def run(model: onnx.ModelProto, inputs: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


class Layer:
    """One weighted layer, and what random arithmetic may stand before and after it."""

    def __init__(self, seed: int, kind: str, opset: int = 17) -> None:
        self.random = np.random.default_rng(seed)
        self.kind, self.opset = kind, opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, *shape: int, low: float = 0.3) -> str:
        """Add a constant: an initializer, a Constant node, or one that passes through nodes that only move it."""
        sign = self.random.choice([-1, 1], shape)
        values = (sign * self.random.uniform(low, 2, shape)).astype(np.float32)
        name = f"c{len(self.constants)}_{len(self.nodes)}"
        way = self.random.integers(5)
        if way == 0:
            return self.node("Constant", value=numpy_helper.from_array(values, name))
        if way == 1:
            self.constants.append(numpy_helper.from_array(values.reshape(-1), name))
            return self.node("Reshape", name, self.raw(np.array(shape, np.int64)))
        if way == 2 and shape:
            self.constants.append(numpy_helper.from_array(values[None], name))
            return self.node("Squeeze", name, self.raw(np.array([0], np.int64)))
        self.constants.append(numpy_helper.from_array(values.astype(np.float64) if way == 3 else values, name))
        return self.node("Cast", name, to=TensorProto.FLOAT) if way == 3 else self.node("Identity", name)

    def raw(self, values: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(values, f"r{len(self.constants)}"))
        return self.constants[-1].name

    def node(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def arithmetic(self, tensor: str, channels: int, trailing: int, kinds: list[str]) -> str:
        """Add a chain of nodes that change each channel alike."""
        for kind in kinds:
            shape = (channels, *[1] * trailing)
            shape = [shape, (1, *shape), (), (1,) * (trailing + 1)][self.random.integers(4)]
            if kind == "BatchNormalization":
                parts = [self.constant(channels) for _ in range(3)]
                spread = self.raw(self.random.uniform(0.1, 4, channels).astype(np.float32))
                tensor = self.node(kind, tensor, *parts, spread, epsilon=1e-3)
            elif kind == "Neg":
                tensor = self.node(kind, tensor)
            elif kind == "from":
                tensor = self.node("Sub", self.constant(*shape), tensor)
            else:
                operands = [tensor, self.constant(*shape)]
                swap = kind in ("Mul", "Add") and self.random.integers(2)
                tensor = self.node(kind, *(operands[::-1] if swap else operands))
        return tensor

    def layer(self, tensor: str, *, pads: int = 0) -> tuple[str, int, int]:
        """Add the layer; return its result, its channels and the number of axes behind them."""
        r, bias = self.random, bool(self.random.integers(2))
        if self.kind in ("Conv", "grouped", "depthwise"):
            groups = {"Conv": 1, "grouped": 2, "depthwise": 6}[self.kind]
            weight = self.raw(r.normal(0, 1, (12, 6 // groups, 3, 3)).astype(np.float32))
            inputs = [tensor, weight, *([self.constant(12)] if bias else [])]
            return self.node("Conv", *inputs, group=groups, pads=[pads] * 4), 12, 2
        if self.kind == "ConvTranspose":
            weight = self.raw(r.normal(0, 1, (6, 4, 2, 2)).astype(np.float32))
            inputs = [tensor, weight, *([self.constant(8)] if bias else [])]
            return self.node("ConvTranspose", *inputs, group=2, strides=[2, 2]), 8, 2
        if self.kind == "Gemm":
            across = int(r.integers(2))
            weight = self.raw(r.normal(0, 1, (5, 6) if across else (6, 5)).astype(np.float32))
            inputs = [tensor, weight, *([self.constant(*[(5,), (1, 5), ()][r.integers(3)])] if bias else [])]
            factors = {"alpha": 0.5, "beta": 2.0} if r.integers(2) else {}
            return self.node("Gemm", *inputs, transB=across, **factors), 5, 0
        return self.node("MatMul", tensor, self.raw(r.normal(0, 1, (6, 5)).astype(np.float32))), 5, 0

    @property
    def shape(self) -> list[int]:
        """Of the images."""
        return {"Gemm": [6], "MatMul": [6], "MatMul of 3": [7, 6]}.get(self.kind, [6, 5, 5])

    def model(self, rank: int = 0) -> onnx.ModelProto:
        """Return the graph; the node added last gives its output, of as many axes as the images if not told."""
        self.nodes[-1].output[0] = "logits"
        graph = helper.make_graph(
            self.nodes,
            "layer",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", *self.shape])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None] * (rank or len(self.shape) + 1))],
            self.constants,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        onnx.checker.check_model(made)
        return made

    def inputs(self) -> np.ndarray:
        return self.random.normal(0, 1, (3, *self.shape)).astype(np.float32)


def same(before: onnx.ModelProto, after: onnx.ModelProto, inputs: np.ndarray) -> None:
    onnx.checker.check_model(after, full_check=True)
    expected = run(before, inputs)
    # Float32 sums in another order, weights rounded once more: 24 bits and a handful of operations.
    np.testing.assert_allclose(run(after, inputs), expected, atol=2e-5 * np.abs(expected).max(), rtol=1e-4)


LAYERS = ["Conv", "grouped", "depthwise", "ConvTranspose", "Gemm", "MatMul", "MatMul of 3"]
CHAIN = ["Mul", "Add", "Sub", "Div", "from", "Neg"]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("seed", range(6))
def test_a_chain_after_a_layer_becomes_part_of_it(kind, seed):
    made = Layer(seed, kind)
    result, channels, trailing = made.layer("images", pads=1)
    names = [*CHAIN, *(["BatchNormalization"] if kind != "MatMul of 3" else [])]
    chain = list(made.random.choice(names, made.random.integers(1, 5)))
    made.node("Relu", made.arithmetic(result, channels, trailing, chain))
    model = made.model()
    found = fold(clean(model))
    same(model, found, made.inputs())
    left = [name for name in kinds(found) if name in ARITHMETIC]
    # A matrix product of more than two axes has no place for a bias.
    assert left == (["Add"] if kind == "MatMul of 3" and left else [])


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("seed", range(6))
def test_a_chain_before_a_layer_becomes_part_of_it_where_that_is_exact(kind, seed):
    made = Layer(seed, kind)
    chain = ["Mul", "Div"] if kind == "ConvTranspose" else list(made.random.choice(["Mul", "Div", "Add", "Sub"], 3))
    data = made.arithmetic("images", 6, len(made.shape) - 1 if kind != "MatMul of 3" else 0, chain)
    made.node("Relu", made.layer(data)[0])
    model = made.model()
    found = fold(clean(model))
    same(model, found, made.inputs())
    if kind != "MatMul of 3":
        assert not ARITHMETIC & set(kinds(found))


def test_a_shift_before_padding_stays_and_a_factor_after_it_goes():
    made = Layer(0, "Conv")
    shifted = made.node("Sub", "images", made.raw(np.full((6, 1, 1), 0.5, np.float32)))
    scaled = made.node("Mul", shifted, made.raw(np.full((6, 1, 1), 3, np.float32)))
    made.node("Relu", made.layer(scaled, pads=1)[0])
    model = made.model()
    found = fold(clean(model))
    same(model, found, made.inputs())
    assert kinds(found) == ["Sub", "Conv", "Relu"]


def test_what_has_two_readers_stays():
    made = Layer(0, "Conv")
    result, _, _ = made.layer("images", pads=1)
    scaled = made.node("Mul", result, made.raw(np.full((12, 1, 1), 2, np.float32)))
    made.node("Add", scaled, result)
    model = made.model()
    found = fold(clean(model))
    same(model, found, made.inputs())
    assert kinds(found) == ["Conv", "Mul", "Add"]


def test_a_weight_that_two_layers_share_is_folded_for_each_alone():
    made = Layer(0, "Conv")
    weight = made.raw(made.random.normal(0, 1, (6, 6, 3, 3)).astype(np.float32))
    first = made.node("Conv", "images", weight, pads=[1] * 4)
    first = made.node("Mul", first, made.raw(np.full((6, 1, 1), 2, np.float32)))
    made.node("Relu", made.node("Conv", first, weight, pads=[1] * 4))
    model = made.model()
    found = fold(clean(model))
    same(model, found, made.inputs())
    assert kinds(found) == ["Conv", "Conv", "Relu"]


@pytest.mark.parametrize("shape", [(5,), (5, 5), (1, 12, 5, 5), (1, 1, 12, 1, 1)])
def test_a_constant_along_other_axes_stays(shape):
    made = Layer(0, "Conv")
    result, _, _ = made.layer("images", pads=1)
    made.node("Relu", made.node("Add", result, made.raw(np.ones(shape, np.float32))))
    model = made.model(rank=max(4, len(shape)))
    found = fold(clean(model))
    same(model, found, made.inputs())
    assert "Add" in kinds(found)


def test_one_channel_that_becomes_three_is_left_alone():
    made = Layer(0, "Conv")
    gray = made.node("ReduceMean", "images", axes=[1])
    made.node("Relu", made.layer(made.node("Mul", gray, made.raw(np.ones((6, 1, 1), np.float32))))[0])
    model = made.model()
    found = fold(clean(model))
    same(model, found, made.inputs())
    assert "Mul" in kinds(found)


def test_a_factor_of_infinity_stays():
    made = Layer(0, "Conv")
    result, _, _ = made.layer("images")
    made.node("Relu", made.node("Div", result, made.raw(np.zeros((12, 1, 1), np.float32))))
    assert "Div" in kinds(fold(clean(made.model())))


@pytest.mark.parametrize("way", ["Reshape", "Transpose", "Squeeze"])
def test_a_change_is_moved_across_nodes_that_only_move_values(way):
    """A batch norm after a linear layer of tokens, and a bias in the layout of TensorFlow."""
    made = Layer(0, "Squeeze" if way == "Squeeze" else "MatMul of 3" if way == "Reshape" else "Conv")
    result, channels, _ = made.layer("images", pads=1) if way != "Squeeze" else ("", 6, 0)
    if way == "Reshape":
        flat = made.node("Reshape", result, made.raw(np.array([-1, channels], np.int64)))
        normed = made.arithmetic(flat, channels, 0, ["BatchNormalization"])
        made.node("Relu", made.node("Reshape", normed, made.raw(np.array([-1, 7, channels], np.int64))))
    elif way == "Transpose":
        last = made.node("Transpose", result, perm=[0, 2, 3, 1])
        added = made.node("Add", last, made.raw(np.arange(channels, dtype=np.float32)))
        made.node("Relu", made.node("Transpose", added, perm=[0, 3, 1, 2]))
    else:
        pooled = made.node("GlobalAveragePool", "images")
        point = made.node("Conv", pooled, made.raw(made.random.normal(0, 1, (4, 6, 1, 1)).astype(np.float32)))
        flat = made.node("Squeeze", point, made.raw(np.array([2, 3], np.int64)))
        made.node("Relu", made.node("Add", flat, made.raw(np.arange(4, dtype=np.float32))))
    model = made.model(rank=2 if way == "Squeeze" else 0)
    found = fold(clean(model))
    same(model, found, made.inputs())
    left = [name for name in kinds(found) if name in ARITHMETIC]
    assert left == (["Add"] if way == "Reshape" else [])


def test_standardized_weights_are_computed_once():
    made = Layer(0, "Conv")
    weight = made.raw(made.random.normal(3, 2, (64, 6, 8, 8)).astype(np.float32))
    centered = made.node("Sub", weight, made.node("ReduceMean", weight, axes=[1, 2, 3]))
    spread = made.node("Sqrt", made.node("ReduceMean", made.node("Mul", centered, centered), axes=[1, 2, 3]))
    made.node("Relu", made.node("Conv", "images", made.node("Div", centered, spread), pads=[4] * 4))
    model = made.model()
    found = fold(clean(model))
    same(model, found, made.inputs())
    assert kinds(found) == ["Conv", "Relu"]


@pytest.mark.parametrize("opset", [9, 11, 13])
def test_files_of_older_opsets_are_folded_too(opset):
    made = Layer(3, "Conv", opset=opset)
    result, channels, _ = made.layer("images", pads=1)
    dropped = made.node("Dropout", result)
    parts = [made.raw(made.random.uniform(0.5, 2, channels).astype(np.float32)) for _ in range(4)]
    normed = made.node("BatchNormalization", dropped, *parts)
    made.node("Relu", made.node("Add", normed, made.raw(np.ones((channels, 1, 1), np.float32))))
    model = made.model()
    found = fold(clean(model))
    same(model, found, made.inputs())
    assert kinds(found) == ["Conv", "Relu"]


def test_random_numbers_and_large_tables_stay():
    made = Layer(0, "Conv")
    noise = made.node("RandomNormal", shape=[6, 1, 1], seed=1.0)
    table = made.node("ConstantOfShape", made.raw(np.array([1 << 14, 1 << 13], np.int64)))
    largest = made.node("ReduceMax", table, axes=[0, 1], keepdims=0)
    made.node("Add", made.node("Add", "images", noise), largest)
    found = kinds(fold(clean(made.model())))
    assert {"RandomNormal", "ConstantOfShape"} <= set(found)


def test_a_folded_graph_is_left_as_it_is(family):
    once = fold(family)
    assert fold(once).SerializeToString() == once.SerializeToString()


def standardized() -> tuple[Layer, onnx.ModelProto]:
    made = Layer(0, "Conv")
    weight = made.raw(made.random.normal(3, 2, (64, 6, 8, 8)).astype(np.float32))
    centered = made.node("Sub", weight, made.node("ReduceMean", weight, axes=[1, 2, 3]))
    made.node("Relu", made.node("Conv", "images", centered, pads=[4] * 4))
    return made, made.model()


def test_parameters_alone_are_folded_into_a_file_that_stays_as_it_is_otherwise():
    made, model = standardized()
    for node in model.graph.node:
        node.name = ""  # names are optional, and files have the same one twice
    found = fold_parameters(model)
    same(model, found, made.inputs())
    assert kinds(found) == ["Conv", "Relu"]
    assert found.opset_import == model.opset_import
    onnx.checker.check_model(found, full_check=True)


def test_weights_that_are_kept_small_on_disk_stay_small():
    made = Layer(0, "Conv")
    half = made.raw(made.random.normal(0, 1, (64, 6, 20, 20)).astype(np.float16))
    made.node("Relu", made.node("Conv", "images", made.node("Cast", half, to=TensorProto.FLOAT), pads=[10] * 4))
    model = made.model()
    assert fold_parameters(model) is model


def test_a_file_with_branches_stays_as_it_is():
    _, model = standardized()
    body = helper.make_graph([], "body", [], [helper.make_tensor_value_info("t1", TensorProto.FLOAT, None)])
    condition = numpy_helper.from_array(np.array(True), "condition")
    model.graph.initializer.append(condition)
    branch = helper.make_node("If", ["condition"], ["unused"], then_branch=body, else_branch=body)
    model.graph.node.insert(2, branch)
    assert fold_parameters(model) is model
