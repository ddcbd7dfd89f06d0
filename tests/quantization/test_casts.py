"""Half precision by casts: what is cast, what is kept, and that nothing overflows unseen."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tlopt.engine import flavour
from tlopt.engine.building import builder
from tlopt.engine.building.options import Options
from tlopt.engine.building.targets import plan
from tlopt.graphs.cleaning import clean, infer
from tlopt.graphs.view import View
from tlopt.quantization.calibration.activations import observe
from tlopt.quantization.casts import _converted, cast, overflowing, spelled_out, to_half
from tlopt.sessions import open_session


def floats(view: View) -> list[str]:
    return [name for node in view.nodes for name in node.output if view.is_float(name)]


def run(model: onnx.ModelProto, inputs: np.ndarray) -> np.ndarray:
    return open_session(model).run(None, {"images": inputs})[0]


def test_fp16_is_close_and_keeps_float32_at_both_ends(family, photos_like):
    made = cast(View(family), "fp16")
    onnx.checker.check_model(made, full_check=True)
    assert made.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert made.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    expected = run(family, photos_like)
    # 11 significant bits in each of a handful of layers.
    np.testing.assert_allclose(run(made, photos_like), expected, atol=0.005 * np.ptp(expected))
    assert sum(node.op_type == "Cast" for node in made.graph.node) == 2
    assert all(i.data_type != TensorProto.FLOAT for i in made.graph.initializer)


def test_a_mask_of_infinities_goes_to_half_precision(builder, photos_like):
    b = builder
    rows = b.node("Reshape", b.conv("images", 3, 8, strides=[4, 4]), b.constant(np.array([0, 8, 16], np.int64)))
    alike = b.node("MatMul", b.node("Transpose", rows, perm=[0, 2, 1]), rows)
    mask = b.constant(np.triu(np.full((16, 16), -np.inf, np.float32), 1))
    seen = b.node("MatMul", rows, b.node("Softmax", b.node("Add", alike, mask), axis=-1))
    shape = b.constant(np.array([0, 8, 4, 4], np.int64))
    view = View(clean(b.model(b.head(b.node("Reshape", seen, shape), 8))))
    made, large = to_half(view, "fp16", [photos_like])
    assert not large
    expected = run(view.model, photos_like)
    np.testing.assert_allclose(run(made, photos_like), expected, atol=0.005 * np.ptp(expected))


def test_what_a_graph_calls_its_tensors_changes_no_answer(family, photos_like):
    odd = onnx.ModelProto()
    odd.CopyFrom(family)
    graph = odd.graph
    tensors = [*(name for node in graph.node for name in node.output), *(i.name for i in graph.initializer)]
    free = (
        f"{base}{ending}"
        for base in ("images", *"abcdefghijklmnopq")
        for ending in ("", "_fp16", "_fp32", "_fp16_cast")
    )
    names = dict(zip(tensors, list(free)[1:], strict=False)) | {output.name: output.name for output in graph.output}
    assert len(names) == len(tensors)
    for initializer in graph.initializer:
        initializer.name = names[initializer.name]
    for node in graph.node:
        for field in (node.input, node.output):
            field[:] = [names.get(name, name) for name in field]
    del graph.value_info[:]
    found = cast(View(infer(odd)), "fp16")
    onnx.checker.check_model(found, full_check=True)
    np.testing.assert_array_equal(run(found, photos_like), run(cast(View(family), "fp16"), photos_like))


@pytest.mark.parametrize("half", ["fp16", "bf16"])
def test_kept_nodes_compute_in_float32(family, photos_like, half):
    convs = [node.name for node in family.graph.node if node.op_type == "Conv"]
    made = cast(View(family), half, keep=convs[1:2])
    onnx.checker.check_model(made, full_check=True)
    view = View(made)
    kept = next(node for node in made.graph.node if node.name == convs[1])
    assert view.initializers[kept.input[1]].data_type == TensorProto.FLOAT


@pytest.mark.parametrize(("half", "kind"), [("fp16", "Celu"), ("bf16", "Celu"), ("bf16", "Shrink"), ("fp16", "Shrink")])
def test_operators_that_onnx_has_in_no_half_precision_stay_float32(half, kind):
    random = np.random.default_rng(0)
    weight = numpy_helper.from_array(random.normal(size=(4, 3, 3, 3)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["c"], name="c"),
        helper.make_node(kind, ["c"], ["k"], name="k"),
        helper.make_node("Sigmoid", ["k"], ["y"], name="y"),
    ]
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 6, 6])
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 4, 4])
    made = helper.make_graph(nodes, "g", [image], [answer], [weight])
    model = infer(helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=9))
    result = cast(View(model), half)
    onnx.checker.check_model(result, full_check=True)
    view = View(infer(result))
    kept = next(node for node in result.graph.node if node.op_type == kind)
    assert view.is_float(kept.input[0]) is ((half, kind) != ("fp16", "Shrink"))
    assert not view.is_float(next(node for node in result.graph.node if node.op_type == "Conv").output[0])
    if half == "fp16":
        inputs = random.normal(size=(2, 3, 6, 6)).astype(np.float32)
        np.testing.assert_allclose(run(result, inputs), run(model, inputs), atol=0.01)


def test_a_tensor_beyond_the_range_is_found_and_survives(build, photos_like):
    model = build("residual")
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    second = [node for node in model.graph.node if node.op_type == "Conv"][1]
    for i in model.graph.initializer:
        factor = {first.input[1]: 1e5, first.input[2]: 1e5, second.input[1]: 1e-5}.get(i.name)
        if factor:
            i.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(i) * factor).astype(np.float32), i.name))
    view = View(model)
    keep = overflowing(view, observe(view, floats(view), [photos_like]), "fp16")
    assert first.name in keep
    expected = run(model, photos_like)
    np.testing.assert_allclose(run(cast(view, "fp16", keep=keep), photos_like), expected, atol=0.01 * np.ptp(expected))
    assert not overflowing(view, observe(view, floats(view), [photos_like]), "bf16")


def test_bfloat16_rounds_to_nearest_even():
    import torch

    values = np.random.default_rng(0).normal(0, 100, 1000).astype(np.float32)
    found = np.frombuffer(_converted(numpy_helper.from_array(values, "x"), "bf16", "y").raw_data, np.uint16)
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(found, expected)


def activated(*nodes):
    """Return a convolution, these nodes from "c" to "a", and a matrix product, on 16 x 16 pixels."""
    random = np.random.default_rng(0)
    tensors = {"weight": random.standard_normal((8, 3, 3, 3)), "head": random.standard_normal((8, 4))}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "weight"], ["c"], name="conv", pads=[1, 1, 1, 1]),
            *nodes,
            helper.make_node("GlobalAveragePool", ["a"], ["p"], name="pool"),
            helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
            helper.make_node("Gemm", ["f", "head"], ["logits"], name="gemm"),
        ],
        "activated",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()],
    )
    return infer(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9))


@pytest.mark.parametrize("operator", ["HardSwish", "Mish"])
def test_an_activation_spelled_out_is_the_same(operator):
    node = helper.make_node(operator, ["c"], ["a"], name="act")
    images = 3 * np.random.default_rng(0).standard_normal((4, 3, 16, 16)).astype(np.float32)
    found, expected = run(activated(*spelled_out(node)), images), run(activated(node), images)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.ptp(expected))  # of a few float32 roundings


@pytest.mark.skipif(bool(flavour.problem("rtx")), reason="TensorRT for RTX is not installed")
@pytest.mark.parametrize("half", ["fp16", "bf16"])
@pytest.mark.parametrize("operator", ["HardSwish", "Mish", "LpNormalization", "HardSigmoid", "Gelu", "Softplus"])
def test_activations_in_half_precision_are_built_into_an_engine(operator, half, tmp_path):
    made = cast(View(activated(helper.make_node(operator, ["c"], ["a"], name="act"))), half)
    onnx.save(made, tmp_path / "model.onnx")
    shape = (3, 16, 16)
    engine = builder.build(tmp_path / "model.onnx", plan(("sm89",)), Options(), shape=shape, dtype="float32")
    reads = {kind for row in engine.layers.rows for kind in row["inputs"]}
    assert {"fp16": "Half", "bf16": "BFloat16"}[half] in reads
