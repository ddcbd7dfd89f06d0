"""A graph that OpenVINO computes otherwise than ONNX defines it does not run there."""

from __future__ import annotations

import numpy as np
import pytest
from any_nets import AnyNet, brought, images
from onnx import TensorProto

import tlopt
from tlopt.artifact import Artifact
from tlopt.backends import _agreement, _refusals, open_runner
from tlopt.errors import StageError

pytest.importorskip("openvino")

MISREAD = "openvino:cpu computes an operator of .* otherwise than ONNX defines it: its answers to 3 images are"


def resized(folder, **how):
    """Return a network that makes its features smaller, float32 (n, 3, 16, 24) -> (n, 6, 2, 3)."""
    net = AnyNet(opset=18)
    half = net.add("Resize", net.deep, "", net.constant([1, 1, 0.5, 0.5]), mode="linear", **how)
    net.output(net.conv(half, 8, 6), "mask")
    return brought(net, folder)


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(_agreement, "_found", {})


def test_a_graph_that_openvino_misreads_is_not_run_there(tmp_path):
    artifact = resized(tmp_path, antialias=1)
    with pytest.raises(StageError, match=MISREAD) as caught:
        open_runner(artifact, "openvino")
    assert "ONNX Runtime can run it" in caught.value.hint
    with open_runner(artifact, "onnxruntime"), open_runner(artifact, "openvino", compared=False):
        pass


def test_a_graph_that_openvino_reads_rightly_is_compared_once(tmp_path, monkeypatch):
    artifact = resized(tmp_path)
    with open_runner(artifact, "openvino"):
        pass
    assert max(_agreement._found.values()) < 1e-9
    monkeypatch.setattr(_agreement, "_noise", lambda *_: pytest.fail("compared again"))
    with open_runner(artifact, "openvino"):
        pass


def test_a_runtime_that_fails_in_the_comparison_is_one_error(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("Exception from src/inference/src/cpp/infer_request.cpp:223:\nno broadcast of 3 to 4\n")

    artifact = resized(tmp_path)
    monkeypatch.setattr("tlopt.backends.openvino.Runner.outputs", fail)
    with pytest.raises(StageError, match=r"^openvino:cpu cannot run .*: no broadcast of 3 to 4\n") as caught:
        open_runner(artifact, "openvino")
    assert "ONNX Runtime can run it" in caught.value.hint


def test_quantize_for_openvino_refuses_what_it_misreads_before_it_calibrates(tmp_path, monkeypatch):
    artifact = resized(tmp_path, antialias=1)
    monkeypatch.setattr("tlopt.quantization.int8.calibrate", lambda *_, **__: pytest.fail("calibrated"))
    with pytest.raises(StageError, match=MISREAD):
        tlopt.quantize(artifact, tmp_path / "int8", for_="openvino", images=images(tmp_path / "images"))
    assert not (tmp_path / "int8").exists()


def test_bench_leaves_out_a_runtime_that_misreads(tmp_path):
    rows = tlopt.bench(
        [resized(tmp_path, antialias=1)], seconds=0.01, batch=(1,), images=images(tmp_path / "images")
    ).rows
    assert [row["backend"] for row in rows] == ["onnxruntime:cpu", "openvino"]
    assert "otherwise than ONNX defines it" in rows[1]["skipped"]


def test_what_rounding_decides_is_not_compared(tmp_path):
    net = AnyNet()
    values = net.add("Flatten", net.conv(net.deep, 8, 6), axis=1)
    largest, places = net.add("TopK", values, net.constant([5], np.int64), axis=1), "places"
    net.nodes[-1].output.append(places)
    net.output(largest, "embedding").output(places, "best", TensorProto.INT64, ["n", 5])
    net.output(net.conv(net.deep, 8, 6), "mask")
    artifact = brought(net, tmp_path)
    assert [artifact.card.outputs[place].name for place in _agreement._comparable(artifact)] == ["mask"]


def test_numbers_that_are_not_finite_differ():
    wanted = np.arange(4, dtype=np.float32)
    assert _agreement._difference(wanted, np.full(4, np.nan, np.float32)) == float("inf")
    assert _agreement._difference(wanted, wanted[:3]) == float("inf")
    assert _agreement._difference(np.zeros(4), np.zeros(4)) == 0
    assert _agreement._difference(np.full(4, 2.0), np.full(4, 2.0 + 1e-6)) < 1e-7  # a rounding of what has no spread


def test_an_operator_that_openvino_does_not_take_is_named(tmp_path):
    with pytest.raises(StageError, match="it has no operator MaxUnpool") as caught:
        open_runner(unpooled(tmp_path), "openvino")
    assert caught.value.hint == _refusals.HINT


def unpooled(folder) -> Artifact:
    net = AnyNet()
    pooled, places = net.add("MaxPool", net.deep, kernel_shape=[2, 2], strides=[2, 2]), "places"
    net.nodes[-1].output.append(places)
    net.output(net.conv(net.add("MaxUnpool", pooled, places, kernel_shape=[2, 2], strides=[2, 2]), 8, 6), "mask")
    return brought(net, folder)


MESSAGE = """Exception from src/inference/src/cpp/core.cpp:84:
Model wasn't fully converted. Failed operations detailed log:
-- Conv-19 with a message:
While validating ONNX node '<Node(Conv): b>': Check 'data.get_partial_shape().rank().is_static()' failed:
The input data tensor's rank has to be known (static)

-- Resize-19 with a message:
While validating ONNX node '<Node(Resize): a>':
half_pixel_symmetric - this mode is not supported.

Summary:
-- Conversion is failed for: Conv-19, Resize-19
"""


def test_of_operators_that_failed_the_first_is_named():
    assert _refusals.operators(MESSAGE) == (
        "it does not take the operator Resize: half_pixel_symmetric - this mode is not supported."
    )


def test_a_message_without_operators_is_told_by_its_last_line():
    assert _refusals.reason(RuntimeError("src/a.cpp:3:\n\nno memory\n")) == "no memory"
    assert _refusals.operators("no memory") == ""
