"""A quantized graph beside its source: harm is said, with its figures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

import tlopt
from tlopt import verdict
from tlopt.artifact import Artifact
from tlopt.cards.details import BesideSource, Measured, Quantized
from tlopt.errors import CheckError, StageError

SOUND = Measured(
    backend="onnxruntime",
    images=100,
    agreement=0.99,
    snr_db=25.0,
    latency_ms={"1": BesideSource(source=2.0, result=1.0), "32": BesideSource(source=60.0, result=30.0)},
)
WHOLE = Quantized(runtime="onnxruntime", calibration_images=8, macs=1_000_000, eight_bit_macs=990_000)


def test_a_sound_result_is_not_warned_of(exported, caplog):
    verdict.tell(exported, "int8", WHOLE, SOUND, require_faster=True)
    assert not caplog.records


def test_logits_below_ten_decibels_are_said(exported, caplog):
    verdict.tell(exported, "int8", WHOLE, replace(SOUND, snr_db=4.71), require_faster=False)
    assert "the logits are far from the source's: 4.7 dB" in caplog.text


def test_few_multiply_adds_in_integers_are_said(exported, caplog):
    few = replace(WHOLE, macs=82_000_000, eight_bit_macs=28_000_000)
    verdict.tell(exported, "int8", few, SOUND, require_faster=False)
    assert "28 of 82 million multiply-adds in int8" in caplog.text


@pytest.mark.parametrize("asked", [{"float_blocks": ("stem",)}, {"macs": None, "eight_bit_macs": None}])
def test_float_blocks_that_were_asked_for_are_not_warned_of(exported, caplog, asked):
    verdict.tell(exported, "int8", replace(WHOLE, **{"eight_bit_macs": 1, **asked}), SOUND, require_faster=False)
    assert not caplog.records


@pytest.mark.parametrize("required", [True, False])
def test_every_batch_that_is_slower_is_named(exported, caplog, required):
    slow = replace(
        SOUND,
        latency_ms={"1": BesideSource(source=2.0, result=3.0), "32": BesideSource(source=60.0, result=90.0)},
        slower_at_batch=(1, 32),
    )
    told = r"slower than .* at batch 1: 3.00 ms against 2.00 ms; at batch 32: 90.00 ms against 60.00 ms"
    if required:
        with pytest.raises(CheckError, match=told):
            verdict.tell(exported, "int8", WHOLE, slow, require_faster=True)
    else:
        verdict.tell(exported, "int8", WHOLE, slow, require_faster=False)
        assert "at batch 1: 3.00 ms against 2.00 ms; at batch 32" in caplog.text


def test_a_graph_that_its_runtime_cannot_open_is_an_error(exported, photos, tmp_path):
    model = onnx.load(exported.payload(".onnx"))
    model.graph.node[0].domain = "nowhere"
    model.opset_import.append(onnx.helper.make_opsetid("nowhere", 1))
    onnx.save(model, tmp_path / "model.onnx")
    judged = tlopt.images.scan(photos)
    for precision, runtime in (("int8", "onnxruntime"), ("fp16", "onnxruntime"), ("int8", "tensorrt")):
        made = Artifact(path=tmp_path, card=replace(exported.card, precision=precision, files={"model.onnx": ""}))
        if (precision, runtime) == ("int8", "onnxruntime"):
            with pytest.raises(StageError, match="onnxruntime cannot run the int8 graph that was made for it"):
                verdict.beside_source(exported, made, judged, runtime)
        else:
            assert "cannot run it here" in verdict.beside_source(exported, made, judged, runtime).not_timed


@pytest.mark.slow
def test_the_card_says_how_much_is_in_8_bits_and_how_far_the_logits_are(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(verdict, "SECONDS", 0.01)
    quantized = tlopt.quantize(exported, tmp_path / "q", samples=8, rounding="nearest").card.quantized
    # Of the tiny network: 3 convolutions on 16, 16 and 8 pixels a side, and the classifier.
    expected = 16**2 * 16 * 27 + 16**2 * 16 * 144 + 8**2 * 32 * 144 + 32 * 3
    assert quantized.macs == quantized.eight_bit_macs == expected
    assert quantized.measured.snr_db > verdict.LEAST_DB
    first = tlopt.quantize(exported, tmp_path / "f", samples=8, rounding="nearest", float_blocks=("first",))
    assert first.card.quantized.eight_bit_macs == expected - 16**2 * 16 * 27


def test_times_are_of_each_batch():
    calls: list[int] = []
    found = verdict.times(lambda x: calls.append(len(x)), lambda x: x, np.zeros((4, 3, 2, 2)), seconds=0.001)
    assert set(found) == set(verdict.TIMED) == set(calls)
