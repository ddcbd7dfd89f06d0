"""Steps of benchmarks/gpu.py that measure how fast engines are, and what energy they take."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from on_gpu.published import comparable, published
from on_gpu.session import Session, inputs_of, open_runner

if TYPE_CHECKING:
    from tlopt.measure.speed.mlperf import Scenario

_SHARES = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99}


def torch_speed(session: Session) -> Any:
    """Measure torch: eager, channels last in fp16, compiled."""
    return session.bench([session.tuned()], "torch", session.batches)


def onnxruntime_speed(session: Session) -> Any:
    """Measure ONNX Runtime with CUDA."""
    return session.bench([session.network(name) for name in ("fp32", "fp16")], "onnx", session.batches)


def engines(precision: str) -> Callable[[Session], Any]:
    """Measure the engines of one precision, one a batch, with graphs and without; then its memory is free again."""

    def work(session: Session) -> Any:
        rows = session.rows
        for size in session.batches:
            engine = session.engine(precision, size)
            facts = {"size_mb": engine.size_mb, "build_seconds": engine.card.lineage[-1].seconds}
            rows += [{**row, **facts} for row in session.bench([engine], "tensorrt", (size,))]
        return rows

    return work


def resident(session: Session) -> Any:
    """Measure throughput at the largest batch when nothing is copied, with 1 to 4 streams."""
    rows = session.rows
    for precision in ("fp16", "int8"):
        size = max(session.batches)
        engine = session.engine(precision, size)
        for streams in (1, 2, 3, 4):
            with open_runner(engine, "cuda-graphs", streams=streams) as runner:
                found = runner.resident(inputs_of(engine, size), runs=session.runs(200))
            rows.append({"precision": precision, "batch": size, "streams": streams, **vars(found)})
    return rows


def latency(session: Session) -> Any:
    """Measure batch 1 by two clocks, beside trtexec where it is installed.

    trtexec's latency is that of the copies and the network by the GPU's clock: "gpu_with_copies" here. "call" is from
    the call to the answer by the processor's clock, with Python's share. MLPerf's single-stream figure is its p90.
    """
    from tlopt.timing import side_by_side

    engine = session.engine("int8", 1)
    with open_runner(engine, "cuda-graphs") as runner:
        inputs = inputs_of(engine, 1)
        (timing,) = side_by_side([lambda: runner(inputs)], seconds=session.options.seconds, turns=5)
        alone, with_copies = [], []
        for _ in range(len(timing.runs_ms)):
            runner(inputs)
            times = runner.gpu_times_ms()
            alone.append(times[0])
            with_copies.append(times[1])
    found = {"call": timing.runs_ms, "gpu": np.array(alone), "gpu_with_copies": np.array(with_copies)}
    figures: dict[str, Any] = {name: quantiles(taken) for name, taken in found.items()}
    figures["runs"] = len(timing.runs_ms)
    if (trtexec := shutil.which("trtexec")) is None:
        return {**figures, "trtexec": "not installed"}
    plan = engine.payload(".engine")
    said = subprocess.run(
        [trtexec, f"--loadEngine={plan}", "--useCudaGraph"], capture_output=True, text=True, check=True
    )
    return {**figures, "trtexec": trtexec_figures(said.stdout)}


def quantiles(taken_ms: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Return the median and two high quantiles of some durations, milliseconds."""
    return {name: float(np.quantile(taken_ms, share)) for name, share in _SHARES.items()}


def trtexec_figures(text: str) -> dict[str, dict[str, float]]:
    """Read the summary that trtexec prints: "Latency" -> its median and its 99th percentile, milliseconds."""
    found = re.findall(r"(Latency|GPU Compute Time): .*?median = ([\d.]+) ms.*?99%\) = ([\d.]+) ms", text)
    return {name: {"p50_ms": float(median), "p99_ms": float(high)} for name, median, high in found}


def loadgen_scenario(scenario: Scenario) -> Callable[[Session], Any]:
    """Run one of MLPerf's scenarios. MLPerf's figures are of ResNet-50: give --model timm:resnet50.tv2_in1k."""

    def work(session: Session) -> Any:
        from tlopt.measure.loadgen import loadgen

        size = 1 if scenario == "single-stream" else max(session.batches)
        report = loadgen(
            [session.engine("int8", size)],
            scenario=scenario,
            batch=size,
            backend=("tensorrt:cuda-graphs",),
            seconds=0.2 if session.options.rehearse else 60,
            target_latency=15.0 if scenario == "server" else None,  # MLPerf's for ResNet-50
            logs=session.options.work / "loadgen",
        )
        return {
            "rows": [dict(row) for row in report.rows],
            "published": published(scenario, session.device),
            "not_comparable": comparable(session.options.model, session.options.image_size),
        }

    return work


def end_to_end(session: Session) -> Any:
    """Measure the way from the files on disk to the answer."""
    size = max(session.batches)
    return session.bench([session.engine("int8", size)], "tensorrt", (size,), end_to_end=True)


def runtimes_end_to_end(session: Session) -> Any:
    """Measure the same with torch and ONNX Runtime."""
    size = max(session.batches)
    return session.bench([session.tuned()], "torch", (size,), end_to_end=True) + session.bench(
        [session.network("fp16")], "onnx", (size,), end_to_end=True
    )


def host_copies(session: Session) -> Any:
    """Measure the ways of a batch from the processor's memory to the GPU's, milliseconds until it is there."""
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("torch has no GPU here")
    side = session.options.image_size
    return [{"batch": size, **_copies(torch, (size, 3, side, side))} for size in session.batches]


def _copies(torch: Any, shape: tuple[int, ...]) -> dict[str, float]:
    batch = np.random.default_rng(0).random(shape, np.float32)
    small = (batch * 255).astype(np.uint8)
    given, bytes_given = torch.from_numpy(batch), torch.from_numpy(small)
    pinned, halves, bytes_pinned = (
        torch.empty(shape, dtype=kind, pin_memory=True) for kind in (torch.float32, torch.float16, torch.uint8)
    )
    view = pinned.numpy()

    def through(held: Any, copy: Callable[[], Any]) -> None:
        copy()
        held.to("cuda", non_blocking=True)

    ways: dict[str, Callable[[], Any]] = {
        "pageable": lambda: given.to("cuda"),
        "page-locked, NumPy copies": lambda: through(pinned, lambda: np.copyto(view, batch)),
        "page-locked, torch copies": lambda: through(pinned, lambda: pinned.copy_(given)),
        "fp16, page-locked": lambda: through(halves, lambda: halves.copy_(given)),
        "uint8, pageable": lambda: bytes_given.to("cuda"),
        "uint8, page-locked": lambda: through(bytes_pinned, lambda: bytes_pinned.copy_(bytes_given)),
        "NumPy's copy alone": lambda: np.copyto(view, batch),
        "torch's copy alone": lambda: pinned.copy_(given),
    }
    return {name: round(_until_there(torch, way), 3) for name, way in ways.items()}


def _until_there(torch: Any, way: Callable[[], Any], runs: int = 15) -> float:
    taken = []
    for _ in range(2 + runs):
        torch.cuda.synchronize()
        started = time.perf_counter()
        way()
        torch.cuda.synchronize()
        taken.append(1e3 * (time.perf_counter() - started))
    return float(np.median(taken[2:]))


def energy(session: Session) -> Any:
    """Measure the energy per image at the largest batch: with the copies, and of batches that stay on the GPU."""
    from tlopt.measure.speed.nvml import Nvml

    gpu = Nvml.open()
    if isinstance(gpu, str):
        raise RuntimeError(gpu)
    if gpu.energy_j() is None:
        raise RuntimeError("the GPU has no energy counter that NVML can read")
    size = max(session.batches)
    keys = ("precision", "backend", "batch", "images_per_s", "gpu_w", "gpu_mj_per_image")
    rows = session.rows
    rows.append({"idle_w": _idle_w(gpu, session.options.seconds)})
    for precision in ("fp16", "int8"):
        engine = session.engine(precision, size)
        rows += [{key: row.get(key) for key in keys} for row in session.bench([engine], "tensorrt", (size,))]
        with open_runner(engine, "cuda-graphs", streams=2) as runner:
            taken = _resident_energy(runner, gpu, inputs_of(engine, size), session.options.seconds)
        rows.append({"precision": precision, "backend": "tensorrt:cuda-graphs, resident", "batch": size, **taken})
    return rows


def _idle_w(gpu: Any, seconds: float) -> float:
    before, began = gpu.energy_j(), time.perf_counter()
    time.sleep(seconds)
    return float((gpu.energy_j() - before) / (time.perf_counter() - began))


def _resident_energy(runner: Any, gpu: Any, inputs: np.ndarray, seconds: float) -> dict[str, float]:
    """Run a batch back to back on every stream for some seconds; return its rate, power and energy."""
    runs = 20
    runner.resident(inputs, runs=runs)
    before, began, images = gpu.energy_j(), time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        runner.resident(inputs, runs=runs)
        images += _run_by_resident(len(runner.lanes), runs) * len(inputs)
    joules, elapsed = gpu.energy_j() - before, time.perf_counter() - began
    return {"images_per_s": images / elapsed, "gpu_w": joules / elapsed, "gpu_mj_per_image": 1e3 * joules / images}


def _run_by_resident(lanes: int, runs: int) -> int:
    """Return the batches that one call of `Runner.resident` runs: some to begin with, one lane alone, then all."""
    from tlopt.engine.running.resident import BEFORE

    return lanes * BEFORE + runs + lanes * runs
