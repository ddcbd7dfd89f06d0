from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from tiny_onnx import RIGHT, write_onnx

from tlopt.errors import OutputError, OutputExistsError, SettingError, StageError
from tlopt.measure.bench import bench
from tlopt.measure.loadgen import loadgen
from tlopt.measure.speed import mlperf


def _verdict_in(folder):
    """Return what LoadGen's summary, the file for people, says."""
    line = next(line for line in (folder / "mlperf_log_summary.txt").read_text().splitlines() if "Result is" in line)
    return line.partition(":")[2].strip()


@pytest.mark.parametrize("scenario", ["single-stream", "multi-stream", "offline", "server"])
def test_loadgen_measures_and_judges_every_scenario(tiny, biased, tmp_path, scenario):
    report = loadgen(
        [tiny, biased], backend=("onnxruntime",), batch=4, seconds=0.1, threads=1, scenario=scenario,
        target_qps=20 if scenario == "server" else None, logs=tmp_path / "logs",
    )  # fmt: skip
    assert [row["artifact"] for row in report.rows] == ["tiny", "biased"]
    (stamp,) = (tmp_path / "logs").iterdir()
    for row in report.rows:
        folder = stamp / f"{row['artifact']}-onnxruntime-cpu-{scenario}"
        assert row["verdict"] == _verdict_in(folder) == "INVALID"  # 0.1 s are no 600 s
        assert "min duration" in row["not_met"]
        log = report.details["loadgen"][folder.name]
        assert log["effective_min_duration_ms"] == 600_000  # the second candidate's, too: by MLPerf's own rules
        assert row["queries"] == log["result_query_count"] > 0
        if scenario != "offline":
            assert row["min_ms"] <= row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        if scenario == "server":
            assert (row["target_qps"], row["target_latency_ms"]) == (20, 10)
    assert "600 s INVALID" in report.notes[0]
    assert report.conditions["logs"] == str(stamp)


def test_the_verdict_is_loadgens_own(tiny, tmp_path, monkeypatch):
    # MLPerf's shortest duration takes ten minutes: here LoadGen is told a shorter one.
    monkeypatch.setattr(mlperf, "wanted", lambda *_: {"min_duration": 100, "target_latency": 0.005})
    report = loadgen([tiny], backend=("onnxruntime",), threads=1, scenario="single-stream", logs=tmp_path)
    assert report.rows[0]["verdict"] == "VALID"
    assert report.rows[0]["not_met"] == ""
    assert len(report.notes) == 1


def test_the_server_scenario_takes_its_targets(tiny, tmp_path):
    row = loadgen([tiny], backend=("onnxruntime",), seconds=0.2, threads=1, scenario="server", target_qps=30,
                target_latency=25, logs=tmp_path).rows[0]  # fmt: skip
    assert (row["target_qps"], row["target_latency_ms"]) == (30, 25)


def test_a_runner_that_fails_under_loadgen_is_one_clear_error(tiny, tmp_path, monkeypatch):
    from tlopt.backends.onnxruntime import Runner

    calls = []

    def breaking(self, inputs):
        calls.append(1)
        time.sleep(0.0005)
        if len(calls) > 40:  # past the warm-up, inside LoadGen's own thread
            raise RuntimeError("the device is gone\nstack")
        return np.zeros((len(inputs), 3), np.float32)

    monkeypatch.setattr(Runner, "__call__", breaking)
    with pytest.raises(StageError, match=r"onnxruntime:cpu failed while running .*tiny: the device is gone"):
        loadgen([tiny], backend=("onnxruntime",), seconds=0.1, scenario="single-stream", logs=tmp_path)


@pytest.mark.parametrize("place", ["file", "images/logs"])
def test_logs_that_cannot_be_written_are_refused_before_the_run(tiny, tmp_path, monkeypatch, place):
    monkeypatch.setattr("tlopt.measure.loadgen._measured", None)
    (tmp_path / "file").touch()
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / name / "1.png")
    with pytest.raises((OutputError, OutputExistsError), match="lies"):
        loadgen([tiny], images=tmp_path / "images", logs=tmp_path / place)
    assert not (tmp_path / "images" / "logs").exists()


def test_what_cannot_run_is_skipped_with_its_reason(tiny, tmp_path):
    report = loadgen([tiny], backend=("openvino:npu",), scenario="offline", logs=tmp_path)
    assert "finds no NPU here" in report.rows[0]["skipped"]
    assert "nothing could run" in report.title
    with pytest.raises(StageError, match=r"could not run on openvino:npu: .*finds no NPU here"):
        report.check()


def test_artifacts_of_one_name_keep_their_logs_apart(card, tmp_path):
    both = [write_onnx(tmp_path / folder / "model", card, RIGHT) for folder in ("a", "b")]
    report = loadgen(
        both, backend=("onnxruntime",), seconds=0.05, threads=1, scenario="offline", logs=tmp_path / "logs"
    )
    assert set(report.details["loadgen"]) == {"a-model-onnxruntime-cpu-offline", "b-model-onnxruntime-cpu-offline"}


def test_the_bench_says_where_its_scenarios_are_now(tiny):
    with pytest.raises(SettingError, match="tlopt loadgen"):
        bench([tiny], scenario="offline")


INTERRUPTED = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
import numpy as np
from tlopt.__main__ import start
from tlopt.backends.onnxruntime import Runner
calls = []
def slow(self, inputs):
    calls.append(1)
    time.sleep(0.001)
    if len(calls) == 60:  # past the warm-up, inside LoadGen
        os.kill(os.getpid(), signal.SIGINT)
    return np.zeros((len(inputs), 3), np.float32)
Runner.__call__ = slow
start()
"""


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["single-stream", "server"])
def test_ctrl_c_ends_a_run_that_takes_ten_minutes_at_once(tiny, tmp_path, scenario):
    command = ["loadgen", tiny.path, "--backend", "onnxruntime", "--logs", tmp_path / "logs", "--scenario", scenario]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (130, "Interrupted; nothing half-written was left.")


def test_an_interrupted_loadgen_is_not_started_again_in_its_process(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(mlperf._INTERRUPTED, "is_set", lambda: True)
    with pytest.raises(StageError, match="runs no other test in it"):
        loadgen([tiny], backend=("onnxruntime",), seconds=0.1, threads=1, logs=tmp_path)
