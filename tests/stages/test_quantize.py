"""Quantizing a small fine-tuned network: what comes out runs, agrees and is refused where it should be."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import onnx
import pytest

import tlopt
import tlopt.stages.quantize
from tlopt.artifact import Artifact, draft, seal
from tlopt.backends import open_runner
from tlopt.errors import ArtifactError, CheckError, ImagesError, SettingError
from tlopt.images import batches, reopen


def logits(artifact: Artifact, images: np.ndarray) -> np.ndarray:
    with open_runner(artifact, "onnxruntime") as runner:
        return runner(images)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Time only a few runs: the tests look at what is made of them."""
    monkeypatch.setattr(sys.modules["tlopt.stages.quantize"], "_TIMED_SECONDS", 0.01)


@pytest.fixture(scope="module")
def held_out(exported):
    part = reopen(exported.card.images)["test"]
    return next(iter(batches(part, exported.card.preprocess, batch=64))).inputs


@pytest.mark.parametrize("precision", ["int8", "fp16"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "tensorrt"])
def test_quantize_keeps_the_logits(exported, held_out, tmp_path, precision, runtime):
    made = tlopt.quantize(exported, tmp_path / "q", precision=precision, for_=runtime, samples=16)
    assert made.card.precision == precision
    assert made.card.details["runtime"] == runtime
    expected, found = logits(exported, held_out), logits(made, held_out)
    # The head has a weight of 900 on a feature that is nearly always 0: rounded alone, it would cost all others their
    # precision. 8 bits then leave an error of about 1 % of the spread, half precision one of 0.1 %.
    tolerance = {"int8": 0.04, "fp16": 0.005}[precision] * np.ptp(expected)
    np.testing.assert_allclose(found, expected, atol=tolerance)


def test_equalization_is_an_option(exported, held_out, tmp_path):
    made = tlopt.quantize(exported, tmp_path / "q", samples=8, equalization=True)
    expected = logits(exported, held_out)
    np.testing.assert_allclose(logits(made, held_out), expected, atol=0.04 * np.ptp(expected))


def test_quantize_to_bf16_passes_the_checker(exported, tmp_path):
    made = tlopt.quantize(exported, tmp_path / "q", precision="bf16", samples=8)
    model = onnx.load(made.payload(".onnx"))
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert {i.data_type for i in model.graph.initializer if len(i.dims) == 4} == {onnx.TensorProto.BFLOAT16}


def test_quantize_refuses_an_artifact_that_is_quantized_already(exported, tmp_path):
    made = tlopt.quantize(exported, tmp_path / "a", precision="fp16", samples=8)
    with pytest.raises(ArtifactError, match="is in fp16 already"):
        tlopt.quantize(made, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_quantize_asks_for_images_where_there_are_none(exported, photos, tmp_path):
    with draft(tmp_path / "imported") as folder:
        (folder / "model.onnx").write_bytes(exported.payload(".onnx").read_bytes())
        seal(folder, replace(exported.card, images=None))
    with pytest.raises(ImagesError, match="has no training images"):
        tlopt.quantize(tmp_path / "imported", tmp_path / "out")
    made = tlopt.quantize(tmp_path / "imported", tmp_path / "out", images=photos, samples=8)
    assert made.card.details["calibration_images"] == 8


def test_quantize_names_the_known_quantizers(exported, tmp_path):
    with pytest.raises(SettingError, match="minmax"):
        tlopt.quantize(exported, tmp_path / "out", quantizer="minmix")


def test_the_card_says_what_was_measured(exported, tmp_path):
    made = tlopt.quantize(exported, tmp_path / "q", samples=16)
    measured = made.card.details["measured"]
    assert measured["agreement"] == 1
    assert set(measured["accuracy"]) == {"source", "result"}
    assert set(measured["latency_ms"]) == {"1", "32"}


def test_require_faster_refuses_what_cannot_be_timed_and_leaves_nothing(exported, tmp_path):
    with pytest.raises(CheckError, match="could not be measured"):
        tlopt.quantize(exported, tmp_path / "q", for_="tensorrt", samples=8, require_faster=True)
    assert not any(tmp_path.iterdir())


def test_require_faster_refuses_what_is_slower(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["tlopt.stages.quantize"], "_MARGIN", 0.0)  # everything counts as slower
    with pytest.raises(CheckError, match=r"int8 is slower than .* at batch 1: .* ms against"):
        tlopt.quantize(exported, tmp_path / "q", samples=8, require_faster=True)
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(find_spec("tensorrt_rtx_bindings") is None, reason="TensorRT for RTX is not installed")
@pytest.mark.parametrize("precision", ["int8", "fp8", "fp16", "bf16"])
def test_tensorrt_builds_what_was_quantized_for_it(exported, tmp_path, precision):
    made = tlopt.quantize(exported, tmp_path / "q", precision=precision, for_="tensorrt", samples=8)
    engine = tlopt.build(made, tmp_path / "engine", flavour="rtx", target=("sm89",))
    assert engine.card.precision == precision


def test_fp8_is_for_tensorrt_alone(exported, tmp_path):
    with pytest.raises(SettingError, match="onnxruntime has no fp8 kernels"):
        tlopt.quantize(exported, tmp_path / "q", precision="fp8")
