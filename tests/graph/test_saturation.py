"""Integer kernels that saturate: told from those that do not, and avoided by weights of half the range."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import tlopt
from tlopt import backends
from tlopt.backends import reduced_range
from tlopt.errors import MissingLibraryError
from tlopt.graph import saturation
from tlopt.graph.calibration import observe
from tlopt.graph.placement import place
from tlopt.graph.qdq import insert
from tlopt.graph.rounding import round_weights
from tlopt.graph.scales import fit_scales
from tlopt.quantizers import minmax

EXACT = saturation.INPUTS * 64 * 127


def test_sums_of_pairs_that_stop_at_16_bits_are_found():
    assert not saturation.saturated(EXACT)
    assert saturation.saturated(np.full_like(EXACT, 32 * (2**15 - 1)))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_runtime_computes_half_the_range_exactly(runtime):
    """What it makes of the test graph is right with weights of 64 on any processor."""
    module = backends.load(runtime)
    model = onnx.load_from_string(saturation.test_graph())
    weight = next(i for i in model.graph.initializer if i.name == "weight")
    weight.CopyFrom(numpy_helper.from_array(np.full((64, 64, 1, 1), 64, np.int8), "weight"))
    if runtime == "onnxruntime":
        found = module._session(model.SerializeToString(), "cpu", 1).run(None, {"images": saturation.INPUTS})[0]
    else:
        core = module.openvino.Core()
        found = core.compile_model(core.read_model(model.SerializeToString()), "CPU")({0: saturation.INPUTS})[0]
    # One step of the result's scale.
    np.testing.assert_allclose(found, EXACT * 64 / 127, atol=64 * 127)


def test_auto_asks_the_runtime_and_a_gpu_never_needs_it(monkeypatch):
    for answer in (True, False):
        monkeypatch.setattr(backends.load("onnxruntime"), "saturates", lambda answer=answer: answer)
        assert reduced_range("onnxruntime", "auto") is answer
        assert reduced_range("onnxruntime", "on")
        assert not reduced_range("onnxruntime", "off")
    assert not reduced_range("tensorrt", "auto")


def test_a_runtime_that_is_not_here_gets_the_whole_range(monkeypatch):
    def missing(name):
        raise MissingLibraryError(name)

    monkeypatch.setattr(backends, "load", missing)
    assert not reduced_range("openvino", "auto")


@pytest.mark.parametrize(("saturates", "reduce_range"), [(True, "off"), (True, "on"), (False, "off")])
def test_a_graph_that_saturates_where_it_is_opened_is_told(
    exported, tmp_path, monkeypatch, caplog, saturates, reduce_range
):
    made = tlopt.quantize(exported, tmp_path / "int8", samples=8, rounding="nearest", reduce_range=reduce_range)
    monkeypatch.setattr(backends.load("onnxruntime"), "saturates", lambda: saturates)
    caplog.clear()
    with backends.open_runner(made):
        pass
    assert ("answers wrongly here" in caplog.text) is (saturates and reduce_range == "off")


@pytest.mark.parametrize("rounding", [True, False])
def test_all_weights_but_depthwise_ones_keep_to_half_the_range(build, photos_like, rounding):
    model = build("mobile")
    placement = place(model, "onnxruntime", reduced=True)
    scales = fit_scales(placement, observe(model, placement.edges, [photos_like]), minmax.choose)
    weights = round_weights(model, placement, scales, lambda: [photos_like], seed=0) if rounding else None
    made = insert(model, placement, scales, weights)
    constants = {i.name: numpy_helper.to_array(i) for i in made.graph.initializer}
    largest = {
        (len(values.shape), values.shape[1] == 1): 0
        for name, values in constants.items()
        if name.endswith("_weight_quantized")
    }
    for name, values in constants.items():
        if name.endswith("_weight_quantized"):
            key = (values.ndim, values.shape[1] == 1)
            largest[key] = max(largest[key], int(np.abs(values.astype(int)).max()))
    assert largest == {(4, False): 64, (4, True): 127, (2, False): 64}
