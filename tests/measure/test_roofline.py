from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tlopt.artifact import Artifact, seal
from tlopt.errors import ArtifactError, StageError
from tlopt.measure.roofline import roofline
from tlopt.measure.speed.work import layers, multiply_adds
from tlopt.publishing import draft


def test_the_work_of_a_convolution_agrees_with_a_count_by_hand(tiny):
    (conv,) = layers(tiny, batch=2)
    assert conv.op == "Conv"
    assert conv.output == (2, 3, 16, 16)
    assert conv.macs == 2 * 16 * 16 * 3 * 3
    assert conv.moved == 4 * (2 * 3 * 16 * 16 + 9 + 2 * 3 * 16 * 16)


def test_torch_and_onnx_are_counted_alike(tuned, exported):
    assert multiply_adds(tuned) == multiply_adds(exported)


def test_quantized_tensors_move_as_integers(card, tmp_path):
    scale = numpy_helper.from_array(np.float32(0.1), "s")
    zero = numpy_helper.from_array(np.int8(0), "z")
    weight = numpy_helper.from_array(np.ones((4, 3, 1, 1), np.int8), "w")
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["images", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["x"]),
            helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wx"]),
            helper.make_node("Conv", ["x", "wx"], ["y"]),
            helper.make_node("GlobalAveragePool", ["y"], ["p"]),
            helper.make_node("Flatten", ["p"], ["logits"]),
        ],
        "qdq",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])],
        [scale, zero, weight],
    )
    with draft(tmp_path / "qdq") as scratch:
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), scratch / "model.onnx")
        seal(scratch, replace(card, precision="int8"))
    (conv,) = layers(Artifact.load(tmp_path / "qdq"))
    assert conv.moved == 3 * 64 + 12 + 4 * (4 * 64)


@pytest.mark.slow
def test_the_share_reached_is_the_bound_over_the_latency(tiny, monkeypatch):
    monkeypatch.setattr("tlopt.measure.roofline._fastest", lambda call: call() and 0.01)
    report = roofline([tiny], batch=(1,), backend=("onnxruntime",), seconds=0.02)
    (row,) = report.rows
    assert row["mmacs"] == pytest.approx(16 * 16 * 9 / 1e6)
    assert row["reached"] == pytest.approx(row["bound_ms"] / row["p50_ms"])
    assert row["bound_by"] == "memory"
    assert report.conditions["peak_gmacs_per_s"]["fp32"] == pytest.approx(1024**3 / 0.01 / 1e9)


@pytest.fixture
def peaks(monkeypatch):
    """What is found of the memory, one measurement after the other; arithmetic is without bound."""
    found: list[float] = []
    monkeypatch.setattr("tlopt.measure.roofline.peak_gmacs_per_s", lambda *_: 1e9)
    monkeypatch.setattr("tlopt.measure.roofline.bandwidth_gb_per_s", lambda _: found.pop(0))
    return found


def test_a_peak_that_was_too_low_is_measured_again(tiny, peaks):
    peaks += [1e-9, 1e9]  # other programs were in the way at first
    report = roofline([tiny], batch=(1,), backend=("onnxruntime",), seconds=0.02)
    assert report.rows[0]["reached"] < 1
    assert report.conditions["bandwidth_gb_per_s"] == 1e9
    assert not any("Do not trust" in note for note in report.notes)


def test_a_share_that_stays_above_the_peak_is_told(tiny, peaks):
    peaks += [2e-9, 1e-9]
    report = roofline([tiny], batch=(1,), backend=("onnxruntime",), seconds=0.02)
    assert report.rows[0]["reached"] > 1
    assert report.conditions["bandwidth_gb_per_s"] == 2e-9
    assert f"More than the peak was reached by {tiny.name} in batches of 1. Do not trust" in report.notes[0]
    assert "caches" in report.notes[0]


def test_other_kinds_and_other_processors_are_refused(tuned, tiny):
    with pytest.raises(ArtifactError, match="is of kind torch; this needs onnx"):
        roofline([tuned])
    with pytest.raises(StageError, match="openvino:gpu runs on another device"):
        roofline([tiny], backend=("openvino:gpu",))
