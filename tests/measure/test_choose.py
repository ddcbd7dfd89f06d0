from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny_onnx import RIGHT, write_onnx

from tlopt.backends import openvino
from tlopt.errors import ImagesError
from tlopt.measure.choose import choose, usable
from tlopt.measure.evaluate import evaluate


def test_the_fastest_backend_that_agrees_is_chosen(tiny):
    choice = choose(tiny, seconds=0.02)
    tried = {row["backend"]: row for row in choice.report.rows}
    assert {"onnxruntime:cpu", "openvino:cpu"} <= set(tried)
    assert tried[choice.backend]["p50_ms"] == min(row["p50_ms"] for row in tried.values())
    assert choice.speed_up == tried[choice.backend]["speed_up"]
    assert choice.backend in choice.report.table()


def test_a_backend_that_answers_otherwise_is_not_chosen_however_fast(tiny, monkeypatch):
    monkeypatch.setattr(openvino.Runner, "__call__", lambda _, inputs: np.zeros((len(inputs), 3), np.float32))
    choice = choose(tiny, seconds=0.02)
    tried = {row["backend"]: row for row in choice.report.rows}
    assert tried["openvino:cpu"]["passes"] is False
    assert choice.backend == "onnxruntime:cpu"


def test_without_photos_the_speed_decides_and_a_note_says_so(card, tmp_path):
    artifact = write_onnx(tmp_path / "artifact", replace(card, images=None), RIGHT)
    assert "There are no images, so the answers were not compared." in choose(artifact, seconds=0.01).report.notes


def test_photos_that_are_not_here_leave_the_speed_to_decide(card, tmp_path, caplog):
    elsewhere = replace(card.images, path=str(tmp_path / "elsewhere"))
    artifact = write_onnx(tmp_path / "artifact", replace(card, images=elsewhere), RIGHT)
    assert "There are no images, so the answers were not compared." in choose(artifact, seconds=0.01).report.notes
    assert "The answers are not compared:" in caplog.text
    with pytest.raises(ImagesError):
        choose(artifact, seconds=0.01, images=tmp_path / "nowhere")


def test_the_own_backend_of_the_kind_comes_first(tiny, tuned):
    assert usable(tiny)[0] == "onnxruntime:cpu"
    assert usable(tuned)[0] == "torch:cpu"
    assert not any("compiled" in name for name in usable(tuned))


def test_evaluate_takes_auto(tiny):
    result = evaluate(tiny, backend="auto")
    assert any(f"{result.runner} is the fastest that passes: " in note for note in result.to_report().notes)
    assert result.runner in {"onnxruntime:cpu", "openvino:cpu", "openvino:cpu-throughput"}


@pytest.mark.parametrize("threads", [1])
def test_threads_are_passed_on(tiny, threads):
    report = choose(tiny, seconds=0.01, threads=threads).report
    assert report.conditions["threads"] == threads
