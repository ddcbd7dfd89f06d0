"""benchmarks/gpu.py, rehearsed: what will run on the day there is a GPU."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc to compile the stand-in with")
def test_the_benchmark_of_gpus_saves_each_step_and_goes_on_where_it_stopped(tmp_path):
    def run(*options):
        command = [sys.executable, str(SCRIPT), "--rehearse", "--batches", "1,4", "--out", str(tmp_path / "results")]
        done = subprocess.run(
            [*command, "--work", str(tmp_path / "work"), *options], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, json.loads((tmp_path / "results" / "gpu-rehearsal.json").read_text())

    steps = "train-several-gpus,tensorrt-fp32,onnxruntime,accuracy-fp32"
    _, first = run("--only", steps)
    assert first["skipped"] == {"train-several-gpus": "RuntimeError: there are 0 GPUs here"}
    rows = first["results"]["tensorrt-fp32"]["found"]
    assert {(row["batch"], row["backend"]) for row in rows} == {
        (batch, backend) for batch in (1, 4) for backend in ("tensorrt:cuda", "tensorrt:cuda-graphs")
    }
    _, stopped = run("--only", f"{steps},latency", "--minutes", "0")
    assert stopped == first
    shown, second = run("--only", "tensorrt-fp32,latency")
    assert second["results"]["tensorrt-fp32"] == first["results"]["tensorrt-fp32"]
    assert "median_ms" in second["results"]["latency"]["found"]
    assert "images/s at batch" in shown
    assert "skipped: RuntimeError: there are 0 GPUs here" in shown
