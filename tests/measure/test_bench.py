from __future__ import annotations

import functools
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from tiny_onnx import RIGHT, write_onnx

from tlopt.backends import open_runner
from tlopt.errors import CheckError, ImagesError, SettingError, StageError
from tlopt.measure import candidates
from tlopt.measure.bench import bench as _bench
from tlopt.measure.speed import feeds
from tlopt.measure.speed.energy import Meter
from tlopt.reports import Report

bench = functools.partial(_bench, memory=False)  # what opens a process of its own is tested once


def test_each_candidate_gets_a_row_per_batch(tiny, biased):
    report = bench([tiny, biased], batch=(1, 4), backend=("onnxruntime",), seconds=0.02)
    assert [(row["artifact"], row["batch"]) for row in report.rows] == [
        ("tiny", 1), ("tiny", 4), ("biased", 1), ("biased", 4),
    ]  # fmt: skip
    for row in report.rows:
        assert row["min_ms"] <= row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert 0 < row["images_per_s"] <= row["batch"] * 1e3 / row["mean_ms"] * 1.001  # the clock reads count, too
    assert report.conditions["runners"]["onnxruntime:cpu"]["providers"] == ["CPUExecutionProvider"]
    assert "images of" in report.conditions["input"]


def test_an_onnx_artifact_runs_on_all_its_usual_backends(tiny):
    assert {row["backend"] for row in bench([tiny], batch=(1,), seconds=0.01).rows} == {
        "onnxruntime:cpu", "openvino:cpu",
    }  # fmt: skip


def test_a_backend_that_cannot_run_here_is_reported_with_its_reason(tiny):
    report = bench([tiny], batch=(1,), backend=("openvino:npu", "torch"), seconds=0.01)
    assert len(report.rows) == 1
    assert "finds no NPU here" in report.rows[0]["skipped"]
    assert "not run" in report.table()
    assert "nothing could run" in report.title
    with pytest.raises(StageError, match=r"tiny could not run on openvino:npu: .*finds no NPU here"):
        report.check()


def test_a_named_backend_that_cannot_run_fails_the_bench_beside_one_that_can(tiny):
    report = bench([tiny], batch=(1,), backend=("onnxruntime", "openvino:npu"), seconds=0.01)
    assert [row["backend"] for row in report.rows if "skipped" not in row] == ["onnxruntime:cpu"]
    assert "1 candidate," in report.title
    with pytest.raises(StageError, match=r"tiny could not run on openvino:npu"):
        report.check()


def test_a_kind_that_no_named_backend_reads_is_reported(tiny):
    report = bench([tiny], batch=(1,), backend=("torch",), seconds=0.01)
    assert report.rows[0]["skipped"] == "torch cannot run the kind onnx"
    with pytest.raises(StageError, match="cannot run the kind onnx"):
        report.check()


def test_artifacts_of_one_name_are_told_apart(card, tmp_path):
    both = [write_onnx(tmp_path / folder / "model", card, RIGHT) for folder in ("a", "b")]
    report = bench(both, batch=(1,), backend=("onnxruntime",), seconds=0.01)
    assert [row["artifact"] for row in report.rows] == ["a/model", "b/model"]


def test_noise_is_used_where_there_are_no_photos_and_it_is_never_zeros(card, tmp_path):
    artifact = write_onnx(tmp_path / "model", replace(card, images=None), RIGHT)
    report = bench([artifact], batch=(1,), backend=("onnxruntime",), seconds=0.01)
    assert report.conditions["input"].startswith("noise")
    noise = feeds._noise(card.preprocess, 8)
    assert noise.std() == pytest.approx(1, abs=0.05)
    assert feeds._noise(replace(card.preprocess, folded=True), 2).dtype == np.uint8


def test_a_report_survives_json(tiny):
    report = bench([tiny], batch=(1,), backend=("onnxruntime",), seconds=0.01)
    assert Report.from_json(report.to_json()).rows == tuple(dict(row) for row in report.rows)


@pytest.mark.slow
def test_a_slow_down_beyond_noise_breaches_the_baseline(tiny, tmp_path):
    arguments = {"batch": (1,), "backend": ("onnxruntime",), "seconds": 0.05}
    raw = json.loads(bench([tiny], **arguments).to_json())
    medians = raw["details"]["turn_medians_ms"]
    for factor, breached in ((0.2, True), (5.0, False)):
        scaled = {key: [factor * value for value in values] for key, values in medians.items()}
        baseline = tmp_path / f"{factor}.json"
        baseline.write_text(json.dumps({**raw, "details": {"turn_medians_ms": scaled}}))
        report = bench([tiny], baseline=baseline, **arguments)
        assert bool(report.breaches) == breached
    with pytest.raises(CheckError, match="slower than the baseline"):
        bench([tiny], baseline=tmp_path / "0.2.json", **arguments).check()


@pytest.mark.slow
def test_a_baseline_of_something_else_does_not_pass(tiny, tmp_path):
    file = tmp_path / "baseline.json"
    file.write_text(bench([tiny], batch=(1, 2), seconds=0.02).to_json())
    other = bench([tiny], batch=(4,), seconds=0.02, baseline=file)
    with pytest.raises(CheckError, match="The baseline has nothing of what was measured: it has "):
        other.check()
    some = bench([tiny], batch=(2, 4), seconds=0.02, baseline=file, max_regression=99)
    some.check()
    assert any("on one side only" in note for note in some.notes)


def test_a_baseline_that_is_none_is_refused_before_measuring(tiny, tmp_path):
    with pytest.raises(SettingError, match="cannot be used as a baseline"):
        bench([tiny], baseline=tmp_path / "missing.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(SettingError, match="cannot be used as a baseline"):
        bench([tiny], baseline=tmp_path / "other.json")


def test_callers_at_once_get_rows_of_their_own(tiny):
    report = bench([tiny], batch=(2,), backend=("onnxruntime",), seconds=0.02, streams=(1, 2))
    one, two = report.rows
    assert (one["streams"], two["streams"]) == (1, 2)
    assert two["runs"] % 2 == 0
    assert "open_and_first_ms" not in two
    assert set(report.details["turn_medians_ms"]) == {
        "tiny on onnxruntime:cpu, batch 2", "tiny on onnxruntime:cpu, batch 2, 2 streams",
    }  # fmt: skip


def test_the_way_from_the_file_takes_longer_than_the_run_alone(tiny):
    report = bench([tiny], batch=(1, 4), backend=("onnxruntime",), seconds=0.02, end_to_end=True)
    for row in report.rows:
        assert row["end_to_end_ms"] > row["min_ms"]
        assert row["end_to_end_images_per_s"] > 0


def test_the_way_from_the_file_needs_photos(tiny):
    with pytest.raises(ImagesError, match="needs images, and there are none"):
        bench([tiny], batch=(1,), backend=("onnxruntime",), seconds=0.01, end_to_end=True, noise=True)


@pytest.mark.slow
def test_memory_gets_a_column_for_each_batch(tiny):
    report = _bench([tiny], batch=(1, 4), backend=("onnxruntime",), seconds=0.01)
    assert all(row["host_mb"] > 0 for row in report.rows)
    assert "device_mb" not in report.columns


def test_energy_is_that_of_all_runs_per_image(tiny, monkeypatch):
    joules = itertools.count(step=2)  # two joules from reading to reading
    monkeypatch.setattr(Meter, "read", lambda _: {"cpu": float(next(joules))})
    (row,) = bench([tiny], batch=(4,), backend=("onnxruntime",), seconds=0.02).rows
    images = (row["runs"] + 10) * 4  # each of the ten turns has a run that is not timed
    assert row["cpu_mj_per_image"] == pytest.approx(10 * 2 * 1e3 / images)
    assert row["cpu_w"] > 0


def test_energy_that_cannot_be_read_is_left_out_and_the_reason_kept(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr("tlopt.measure.bench.Meter", lambda gpu: Meter(root=tmp_path, gpu=gpu))
    report = bench([tiny], batch=(1,), backend=("onnxruntime",), seconds=0.01)
    assert "cpu_w" not in report.columns
    assert "no RAPL counter" in report.conditions["energy_not_read"]["cpu"]


def test_an_artifact_that_fails_in_its_first_run_is_a_row_that_says_why(tiny, monkeypatch):
    from tlopt.backends.onnxruntime import Runner

    def breaking(self, inputs):
        raise RuntimeError("CUDA is out of memory\nstack")

    monkeypatch.setattr(Runner, "__call__", breaking)
    (row,) = bench([tiny], batch=(1,), backend=("onnxruntime",), seconds=0.01, memory=False).rows
    assert "onnxruntime:cpu failed while running" in row["skipped"]
    assert "CUDA is out of memory" in row["skipped"]


@pytest.mark.parametrize("streams", [1, 2])
def test_a_runner_that_fails_while_running_is_one_clear_error(tiny, monkeypatch, streams):
    from tlopt.backends.onnxruntime import Runner

    calls = []

    def breaking(self, inputs):
        calls.append(1)
        if len(calls) > 3:
            raise RuntimeError("the device is gone\nstack")
        return np.zeros((len(inputs), 3), np.float32)

    monkeypatch.setattr(Runner, "__call__", breaking)
    with pytest.raises(StageError, match=r"onnxruntime:cpu failed while running .*tiny: the device is gone"):
        bench([tiny], batch=(1,), backend=("onnxruntime",), seconds=0.01, streams=(streams,))


def test_names_are_those_given(tiny):
    assert bench([tiny], batch=(1,), backend=("onnxruntime",), seconds=0.01, names=["x"]).rows[0]["artifact"] == "x"


def test_each_candidate_can_be_opened_several_times(tiny, monkeypatch):
    made = []

    def counted(*args, **kwargs):
        made.append(args)
        return open_runner(*args, **kwargs)

    monkeypatch.setattr(candidates, "open_runner", counted)
    report = bench([tiny], batch=(1, 2), backend=("onnxruntime",), seconds=0.02, sessions=3)
    assert len(made) == 3
    assert report.conditions["sessions"] == 3
    assert len(report.rows) == 2


def test_a_candidate_that_opens_only_once_is_named(tiny, monkeypatch):
    made = []

    def full(*args, **kwargs):
        made.append(args)
        if len(made) > 1:
            raise StageError("no memory left")
        return open_runner(*args, **kwargs)

    monkeypatch.setattr(candidates, "open_runner", full)
    with pytest.raises(StageError, match=r"tiny cannot be opened 2 times on onnxruntime:cpu: no memory left"):
        bench([tiny], batch=(1,), backend=("onnxruntime",), seconds=0.02, sessions=2)


def test_sessions_are_for_one_caller(tiny):
    with pytest.raises(SettingError, match="sessions is for a single caller"):
        bench([tiny], batch=(1,), backend=("onnxruntime",), seconds=0.02, sessions=2, streams=(2,))
