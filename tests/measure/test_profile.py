from __future__ import annotations

import pytest
from tiny_engine import write_engine

from tlopt.engine.gpu import gpu
from tlopt.errors import PluginError, SettingError, StageError
from tlopt.measure.profile import profile
from tlopt.measure.speed import feeds


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_layers_of_a_graph_are_timed(tiny, backend):
    report = profile(tiny, backend=backend, runs=3)
    assert {row["op"] for row in report.details["layers"]} & {"Conv", "FusedConv", "Convolution", "GroupConvolution"}
    assert sum(row["share"] for row in report.details["layers"]) == pytest.approx(1)
    assert [row["ms"] for row in report.rows] == sorted((row["ms"] for row in report.rows), reverse=True)


def test_the_modules_of_a_torch_network_are_timed(tuned):
    report = profile(tuned, runs=2, top=2)
    assert len(report.rows) == 2
    named = {row["layer"]: row["op"] for row in report.details["layers"]}
    assert named["stem"] == "Conv2d"
    assert "faster layers are not shown" in report.table()


def test_multiply_adds_stand_beside_the_layer(tiny):
    rows = profile(tiny, runs=2).details["layers"]
    assert max(row["mmacs"] or 0 for row in rows) == pytest.approx(16 * 16 * 9 / 1e6)


def test_a_backend_without_profiler_says_which_have_one(tiny, monkeypatch):
    from tlopt.backends import onnxruntime

    monkeypatch.delattr(onnxruntime, "profile")
    with pytest.raises(PluginError, match="onnxruntime has no profiler"):
        profile(tiny)


def test_the_picture_shows_layers_and_operators(tiny, tmp_path):
    report = profile(tiny, backend="onnxruntime", runs=2, picture=tmp_path / "new" / "layers.svg")
    text = (tmp_path / "new" / "layers.svg").read_text()
    assert text.startswith("<?xml")
    for row in report.rows:
        assert str(row["layer"])[-20:] in text
        assert str(row["op"]) in text


def test_a_tensorrt_engine_is_profiled_only_where_there_is_a_gpu(tmp_path):
    if gpu() is not None:
        pytest.skip("there is a GPU here")
    engine = write_engine(tmp_path / "engine")
    with pytest.raises(StageError, match="tensorrt cannot run here: There is no NVIDIA driver"):
        profile(engine)


def test_a_batch_that_memory_does_not_hold_is_refused_at_once(tiny, monkeypatch):
    monkeypatch.setattr(feeds, "physical_bytes", lambda: 1 << 30)
    with pytest.raises(SettingError, match="A batch of 999999 images takes"):
        profile(tiny, batch=999_999)
