"""benchmarks/gpu.py, rehearsed: what will run on the day there is a GPU."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
OLDER = [f"older{what}-{name}" for what in ("", "-answers") for name in ("fp32", "fp16", "int8")]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc to compile the stand-in with")
def test_the_benchmark_of_gpus_saves_each_step_and_goes_on_where_it_stopped(tmp_path):
    def run(*options):
        command = [sys.executable, str(SCRIPT), "--rehearse", "--batches", "1,4", "--out", str(tmp_path / "results")]
        # The script imports what lies beside it.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
        command += ["--work", str(tmp_path / "work"), *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout, json.loads((tmp_path / "results" / "gpu-rehearsal.json").read_text())

    shown, first = run()
    lacking = {f"driver-{name}" for name in ("pycuda", "cuda-bindings") if find_spec(name.partition("-")[0]) is None}
    assert {name: reason for name, reason in first["skipped"].items() if name not in lacking} == {
        "train-recorded": "SettingError: CUDA graphs need a GPU. Leave out --cuda-graphs.",
        "recordings": "RuntimeError: CUDA graphs are recorded on a GPU alone",
        "train-several-gpus": "RuntimeError: there are 0 GPUs here",
        "host-copies": "RuntimeError: torch has no GPU here",
        **dict.fromkeys(OLDER, "RuntimeError: no --older PYTHON is given: one that has tensorrt 8.6.0"),
    }
    assert f"rehearsal: {30 - len(lacking)} of 40 steps" in shown
    assert "skipped: RuntimeError: there are 0 GPUs here" in shown
    for name in {"driver-pycuda", "driver-cuda-bindings"} - lacking:
        assert first["results"][name]["found"]["checked"]["answers"] == 132
    rows = first["results"]["tensorrt-fp32"]["found"]
    assert {(row["batch"], row["backend"]) for row in rows} == {
        (batch, backend) for batch in (1, 4) for backend in ("tensorrt:cuda", "tensorrt:cuda-graphs")
    }
    for kind in ("refit", "strip", "timing-cache", "version-compatible"):
        assert first["results"][kind]["found"]["largest_difference"] == 0
    assert first["results"]["runtime-cache"]["found"]["cache_mb"] > 0
    assert all(row["gpu_mj_per_image"] > 0 for row in first["results"]["energy"]["found"][1:])

    old = first["results"].pop("latency")
    result = tmp_path / "results" / "gpu-rehearsal.json"
    result.write_text(json.dumps(first))
    _, stopped = run("--only", "latency", "--minutes", "0")
    assert stopped == first
    shown, second = run("--only", "tensorrt-fp32,latency")
    assert second["results"]["tensorrt-fp32"] == first["results"]["tensorrt-fp32"]
    found = second["results"]["latency"]["found"]
    assert found != old["found"]
    assert all(0 <= found[clock]["p50_ms"] <= found[clock]["p99_ms"] for clock in ("call", "gpu", "gpu_with_copies"))
    assert "images/s at batch" in shown


@pytest.fixture
def steps(monkeypatch):
    """The modules of the benchmark's steps."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return SimpleNamespace(
        **{name: importlib.import_module(f"on_gpu.{name}") for name in ("kinds", "published", "session", "speed")}
    )


def test_training_that_fell_on_the_processor_is_no_result_of_a_gpu(steps, tmp_path):
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    step = SimpleNamespace(device="AMD EPYC", settings={}, seconds=1.0)
    made = SimpleNamespace(card=SimpleNamespace(lineage=[step]), path=tmp_path)
    options = SimpleNamespace(rehearse=False, work=tmp_path)
    session = SimpleNamespace(options=options, device="NVIDIA L4", finetune=lambda *_, **__: made)
    with pytest.raises(RuntimeError, match="ran on AMD EPYC, not on NVIDIA L4"):
        steps.kinds.training(precision="bf16")(session)
    step.device = "NVIDIA L4"
    assert steps.kinds.training(precision="bf16")(session)["device"] == "NVIDIA L4"


def test_a_step_that_fails_keeps_the_rows_that_it_had(steps, tmp_path):
    options = SimpleNamespace(
        rehearse=True, batches=[1], minutes=1, out=tmp_path, model="pip:any", images=tmp_path, verbose=False
    )
    session = steps.session.Session(options)

    def fails(session):
        session.rows.append({"batch": 1})
        raise RuntimeError("out of memory")

    session.do("speed", fails)
    kept = json.loads(session.file.read_text())
    assert kept["partial"] == {"speed": [{"batch": 1}]}
    assert kept["skipped"] == {"speed": "RuntimeError: out of memory"}
    again = steps.session.Session(options)
    again.do("speed", lambda session: session.rows)
    assert json.loads(again.file.read_text())["partial"] == {}
    assert again.results["speed"]["found"] == []


@pytest.mark.parametrize(
    ("device", "scenario", "gpus"),
    [
        ("NVIDIA H100 80GB HBM3", "offline", {"H100 SXM 80 GB", "H100 NVL 94 GB"}),
        ("NVIDIA L40S", "offline", {"L40S"}),
        ("NVIDIA L4", "single-stream", {"L4"}),
        ("NVIDIA GeForce RTX 4090", "single-stream", {"GeForce RTX 4090"}),
    ],
)
def test_published_figures_are_those_of_the_gpu_here(steps, device, scenario, gpus):
    rows = steps.published.published(scenario, device)
    assert {row["gpu"] for row in rows} == gpus
    for row in rows:
        assert ("per_gpu" in row) == (scenario == "offline")


def test_published_figures_of_every_gpu_are_given_for_one_that_has_none(steps):
    rows = steps.published.published("server", "NVIDIA T4")
    assert len({row["gpu"] for row in rows}) > 3
    assert all(row["per_gpu"] == round(row["value"] / row["gpus"], 1) for row in rows)


def test_our_figures_stand_beside_mlperfs_for_its_network_alone(steps):
    assert steps.published.comparable("timm:resnet50.tv2_in1k", 224) == ""
    assert "resnet18" in steps.published.comparable("timm:resnet18", 224)
    assert "160" in steps.published.comparable("timm:resnet50.tv2_in1k", 160)


def test_the_summary_of_trtexec_is_read(steps):
    line = "{}: min = 0.2 ms, max = 0.9 ms, mean = 0.3 ms, median = {} ms, percentile(90%) = 0.35 ms, "
    line += "percentile(95%) = 0.4 ms, percentile(99%) = {} ms\n"
    text = "".join(
        f"[11/26/2026-03:00:00] [I] {line.format(*row)}"
        for row in (("Latency", 0.31, 0.52), ("Enqueue Time", 0.1, 0.2), ("GPU Compute Time", 0.25, 0.44))
    )
    assert steps.speed.trtexec_figures(text) == {
        "Latency": {"p50_ms": 0.31, "p99_ms": 0.52},
        "GPU Compute Time": {"p50_ms": 0.25, "p99_ms": 0.44},
    }
