"""Training with rounding: the network computes as its quantized graph will."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tlopt import sources
from tlopt.backends import reduced_range
from tlopt.errors import StageError
from tlopt.graphs.cleaning import clean
from tlopt.graphs.view import View
from tlopt.networks import layout, tracing
from tlopt.quantization.int8 import Scheme, calibrate
from tlopt.quantization.qat import arithmetic, network
from tlopt.quantization.qat.places import Place, Places, places_of
from tlopt.quantization.quantizers import minmax
from tlopt.sessions import open_session

RUNTIMES = ["onnxruntime", "openvino", "tensorrt"]
SILU = "timm:efficientnet_b0"  # squeeze-excitation, too
REAL = [
    "timm:resnet18?layers=(1, 1, 1, 1)", "pip:efficientnet_lite0", "timm:mobilenetv2_100?depth_multiplier=0.4", SILU,
]  # fmt: skip


def found_places(graph, runtime, inputs):
    scheme = Scheme(runtime=runtime, reduced=reduced_range(runtime, "auto"), choose=minmax.choose)
    return places_of(calibrate(View(graph), scheme, [inputs]))


def tiny(name, size):
    torch.manual_seed(0)
    model = sources.build(name, classes=5, size=size).eval()
    if hasattr(model, "blocks"):
        # Three stages have blocks of each kind, one of which is added to its input: more would only take longer.
        model.blocks = torch.nn.Sequential(*(stage[: 2 if i == 2 else 1] for i, stage in enumerate(model.blocks[:3])))
        model.conv_head = torch.nn.Conv2d(
            model.blocks[-1][-1].conv_pwl.out_channels, model.conv_head.out_channels, 1, bias=False
        )
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            # Norms as after training: none of them does nothing.
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return model


def images(size, count=8):
    random = np.random.default_rng(1)
    coarse = random.normal(0, 1, (count, 3, 4, 4)).astype(np.float32)
    return coarse.repeat(size // 4, axis=2).repeat(size // 4, axis=3) + random.normal(
        0, 0.2, (count, 3, size, size)
    ).astype(np.float32)


def signal_to_noise(expected, found):
    return 10 * np.log10(np.square(expected).sum() / (np.square(expected - found).sum() + 1e-20))


def agrees_with_its_graph(name, size, runtime, *, margin_db):
    """Train a step with rounding, then compare with the graph that is quantized with the trained scales."""
    model, inputs = tiny(name, size), images(size)
    before = list(model.state_dict())
    proto, program = tracing.trace(model, size, 18)
    places = found_places(clean(proto), runtime, inputs)
    given = torch.from_numpy(inputs)
    with torch.no_grad():
        plain = model(given).numpy()
    with network.rounded(model, program, places, "scales") as steps:
        start = steps.scales()
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        torch.nn.functional.cross_entropy(model(given), torch.arange(len(inputs)) % 5).backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            rounded = model(given).numpy()
        trained = steps.scales()
    assert list(model.state_dict()) == before
    assert all(trained[tensor][0] != start[tensor][0] for tensor in start)
    graph = clean(tracing.trace(model, size, 18)[0])
    scheme = Scheme(runtime=runtime, reduced=reduced_range(runtime, "auto"), trained=trained)
    found = open_session(calibrate(View(graph), scheme, []).graph()).run(None, {"images": inputs})[0]
    with torch.no_grad():
        float_ = model(given).numpy()
    # The same arithmetic but for sums in another order, which puts a value on the other side of a tie now and then.
    assert signal_to_noise(rounded, found) > signal_to_noise(float_, found) + margin_db
    assert not np.allclose(plain, float_)
    return rounded, found


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_trained_network_computes_what_its_integers_compute(runtime):
    rounded, found = agrees_with_its_graph("tiny_models:cnn", 32, runtime, margin_db=6)
    assert signal_to_noise(rounded, found) > 30


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_a_real_network_computes_what_its_integers_compute(name):
    # Layer after layer, random weights multiply the ties that fall to the other side: ONNX Runtime's integer kernels
    # and the same file without its optimizations differ by as much. What counts is which network it is nearer to.
    rounded, found = agrees_with_its_graph(name, 64, "onnxruntime", margin_db=0)
    assert (rounded.argmax(1) == found.argmax(1)).mean() >= 7 / 8


def test_the_gradient_of_a_scale_is_that_of_the_rounding_error():
    """By LSQ's formula, written out: what a larger scale does to each value, rounding itself taken as constant."""
    values = torch.linspace(-2, 6, 97, requires_grad=True)
    logarithms = torch.tensor([math.log(0.02)], requires_grad=True)
    zero, low, high = 50, 0, 255
    result = arithmetic.round_activation(values, logarithms, 0, zero, low, high)
    weights = torch.sin(torch.arange(97.0))
    (result * weights).sum().backward()
    scale, x = 0.02, values.detach()
    level = torch.clamp(torch.round(x / scale) + zero, low, high)
    torch.testing.assert_close(result, (level - zero) * scale)
    inside = (x / scale + zero > low - 0.5) & (x / scale + zero < high + 0.5)
    by_scale = torch.where(inside, (level - zero) - x / scale, level - zero)
    expected = (weights * by_scale).sum() * scale / math.sqrt(97 * high)
    torch.testing.assert_close(logarithms.grad[0], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(values.grad, weights * inside)


def test_tensors_that_share_a_scale_train_it_together():
    place_ = {"zero": 0, "readers": frozenset({"c"})}
    steps = network.Steps(
        Places(
            low=-128,
            high=127,
            tensors={"a": Place(scale=0.5, leader="a", **place_), "b": Place(scale=0.5, leader="a", **place_)},
            weights={},
            names=frozenset(),
        )
    )
    assert len(steps.logarithm) == 1
    with torch.no_grad():
        steps.logarithm += math.log(2)
    assert steps.scales()["a"] == steps.scales()["b"]
    assert steps.scales()["a"][0] == pytest.approx(1.0)


@pytest.mark.slow
def test_a_place_that_the_program_does_not_know_is_refused():
    model = tiny("tiny_models:cnn", 32)
    proto, program = tracing.trace(model, 32, 18)
    places = found_places(clean(proto), "onnxruntime", images(32))
    wrong = Places(
        low=places.low, high=places.high, tensors=places.tensors, weights={"nowhere": 127}, names=places.names
    )
    with (
        pytest.raises(StageError, match="the traced program lacks the tensor nowhere"),
        network.rounded(model, program, wrong, "scales"),
    ):
        pass
    assert "forward" not in vars(model)


@pytest.mark.slow
def test_a_strided_1x1_convolution_of_few_channels_computes_in_the_default_layout():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 1, stride=2), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(), torch.nn.Linear(8, 5),
    ).eval()  # fmt: skip
    proto, program = tracing.trace(model, 16, 18)
    places = found_places(clean(proto), "onnxruntime", images(16))
    layout.place(model, torch.device("cpu"))
    # Its gradient spoils memory in the other layout; hooks of its module are not called, only the graph is.
    seen = []
    real = layout.in_default_layout
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(layout, "in_default_layout", lambda features: seen.append(features.shape) or real(features))
        with network.rounded(model, program, places, "scales"):
            model(torch.from_numpy(images(16)).contiguous(memory_format=torch.channels_last)).sum().backward()
    assert seen == [(8, 3, 16, 16)]
