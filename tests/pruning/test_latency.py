import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from tlopt import sources
from tlopt.pruning import analysis, latency

SIZE = 16


@pytest.fixture
def model():
    """A plain, a depthwise and a grouped convolution, and a classifier."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.Conv2d(16, 32, 1, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4),
    ).eval()  # fmt: skip


@pytest.mark.slow
def test_every_layer_is_timed_at_every_batch(model):
    network = analysis.analyze(model, SIZE)
    table = latency.measure(model, network, SIZE, (1, 3), threads=1)
    assert set(table.whole) == {1, 3}
    assert len(table.times) == 4 * 2
    for rows, columns, times in table.times.values():
        assert times.shape == (len(rows), len(columns))
        assert (times > 0).all()


def test_unevenly_padded_convolutions_are_timed():
    model = sources.build("timm:test_efficientnet?pad_type=same", classes=4, size=SIZE)
    layers = [layer for layer in analysis.analyze(model, SIZE).layers if hasattr(layer.module, "widths")]
    assert layers
    assert all(ms > 0 for ms in latency._profile([(layer, 1, *layer.widths({})) for layer in layers[:2]], 1))


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_given_by_name_is_timed(padding):
    model = nn.Sequential(
        nn.Conv2d(3, 8, (5, 3), dilation=(1, 2), padding=padding), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 4),
    ).eval()  # fmt: skip
    network = analysis.analyze(model, SIZE)
    node, shape, weight = latency._node(0, network.layers[0], 1, 3, 8)
    graph = onnx.helper.make_graph(
        [node], "g", [onnx.helper.make_tensor_value_info("x0", 1, shape),
                      onnx.helper.make_tensor_value_info("w0", 1, weight)],
        [onnx.helper.make_tensor_value_info("y0", 1, None)],
    )  # fmt: skip
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = session.run(None, {"x0": inputs, "w0": model[0].weight.detach().numpy()})[0]
    with torch.inference_mode():
        expected = model[0](torch.from_numpy(inputs)) - model[0].bias.view(-1, 1, 1)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_times_between_measured_widths_are_interpolated():
    times = np.array([[1.0, 2.0], [3.0, 4.0]])
    rows, columns = np.array([8, 16]), np.array([10, 20])
    assert latency._interpolate(rows, columns, times, 8, 10) == 1
    assert latency._interpolate(rows, columns, times, 16, 20) == 4
    assert latency._interpolate(rows, columns, times, 12, 15) == 2.5
    assert latency._interpolate(rows, columns, times, 2, 10) == 1  # below the narrowest that was timed


def test_a_layers_cost_is_its_share_of_the_whole_with_its_activations(model):
    network = analysis.analyze(model, SIZE)
    layer = network.layers[0]
    table = latency.Table(
        times={(latency._shape(layer), 1): (np.array([3]), np.array([8, 16]), np.array([[2.0, 4.0]]))},
        batches=(1,),
        whole={1: 10.0},
        rest={1: 1 / (16 * 64)},  # 1 ms for the layer's 16 channels of 8 x 8
    )
    assert table.cost(layer, {}) == pytest.approx((4 + 1) / 10)
    (group,) = layer.outputs
    # Under the grouped convolution that follows, a unit is two channels.
    assert table.cost(layer, {group: 4}) == pytest.approx((2 + 0.5) / 10)


def test_the_exported_network_answers_as_the_torch_one(model):
    images = torch.randn(3, 3, SIZE, SIZE)
    session = onnxruntime.InferenceSession(latency.to_onnx(model, SIZE), providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": images.numpy()})[0]
    np.testing.assert_allclose(found, model(images).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_padding_that_export_folds_into_convolutions_is_not_timed_beside_them(monkeypatch):
    monkeypatch.setattr(latency, "trace", None)  # it takes ten times as long, and is not needed
    model = sources.build("timm:test_efficientnet?pad_type=same", classes=4, size=SIZE).train()
    content = latency.to_onnx(model, SIZE)
    assert "Pad" not in {node.op_type for node in onnx.load_from_string(content).graph.node}
    assert model.training
    images = torch.randn(3, 3, SIZE, SIZE)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    expected = model.eval()(images).detach().numpy()
    np.testing.assert_allclose(session.run(None, {"images": images.numpy()})[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_padding_that_stays_is_exported_by_the_newer_exporter():
    model = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    images = torch.randn(3, 3, SIZE, SIZE)
    session = onnxruntime.InferenceSession(latency.to_onnx(model, SIZE), providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": images.numpy()})[0]
    np.testing.assert_allclose(found, model(images).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_networks_are_timed_side_by_side(model):
    found = latency.compare([model, model], SIZE, (1, 2), threads=1, seconds=0.01)
    assert len(found) == 2
    assert all(set(times) == {1, 2} and min(times.values()) > 0 for times in found)
