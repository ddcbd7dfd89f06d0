"""Build, verify and measure everything that runs on an NVIDIA GPU, step by step.

    python benchmarks/gpu.py --images DIR [--only STEP,…] [--batches 1,8,64] [--minutes 60]
    python benchmarks/gpu.py --table              # what has been measured so far
    python benchmarks/gpu.py --rehearse           # 30 of 40 steps, without a GPU, on a stand-in and a tiny network

The result is ``gpu-<device>.json``, and for another network than the default ``gpu-<device>-<network>.json``. It is
saved after every step. A step that is in it is not done again: start the command once more to go on. A step that cannot
be done is skipped with its reason, and tried again the next time.

The steps that need no TensorRT have run on an H200. The others were rehearsed without a GPU.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from on_gpu import driver, kinds, older, speed
from on_gpu.session import DEFAULT, Session

if TYPE_CHECKING:
    from tlopt.measure.speed.mlperf import Scenario

HERE = Path(__file__).resolve().parent
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
PRECISIONS = ("fp32", "fp16", "int8", "fp8")
_MOST = 12  # numbers of a step that the table shows
LOADGEN: tuple[Scenario, ...] = ("offline", "server", "single-stream")
STEPS: dict[str, Callable[[Session], Any]] = {
    "train-fp32": kinds.training(precision="fp32"),
    "train-bf16": kinds.training(precision="bf16"),
    "train-compiled": kinds.training(precision="bf16", compile=True),
    "train-recorded": kinds.training(precision="bf16", cuda_graphs=True),
    "train-default": kinds.training(method="lp-ft", epochs=6),
    "recordings": kinds.recordings,
    "train-several-gpus": kinds.several_gpus,
    "torch": speed.torch_speed,
    "onnxruntime": speed.onnxruntime_speed,
    "host-copies": speed.host_copies,
    "runtimes-end-to-end": speed.runtimes_end_to_end,
    "runtimes-accuracy": kinds.runtimes,
    **{f"driver-{name}": driver.driver(name) for name in ("pycuda", "cuda-bindings")},
    **{f"older-answers-{name}": older.checked(name) for name in older.PRECISIONS},
    **{f"older-{name}": older.speed(name) for name in older.PRECISIONS},
    **{f"tensorrt-{name}": speed.engines(name) for name in PRECISIONS},
    "resident": speed.resident,
    "latency": speed.latency,
    **{f"loadgen-{name}": speed.loadgen_scenario(name) for name in LOADGEN},
    "end-to-end": speed.end_to_end,
    "refit": kinds.refit,
    "strip": kinds.variant("strip", strip_weights=True),
    "timing-cache": kinds.variant("timed", timing_cache=True),
    "runtime-cache": kinds.runtime_cache,
    "version-compatible": kinds.variant("compatible", version_compatible=True),
    **{f"accuracy-{name}": kinds.accuracy(name) for name in PRECISIONS},
    "energy": speed.energy,
}


def table(session: Session) -> str:
    """Return a line for each step: what was found, or why it was skipped."""
    lines = [f"{session.device}: {len(session.results)} of {len(STEPS)} steps"]
    for name in STEPS:
        if name in session.results:
            lines.append(f"  {name:20} {_short(session.results[name]['found'])}")
        elif name in session.skipped:
            lines.append(f"  {name:20} skipped: {session.skipped[name][:90]}")
    return "\n".join(lines)


def _short(found: Any) -> str:
    if isinstance(found, dict):
        if "rows" in found:
            return _short(found["rows"]) + _beside(found)
        if "epochs" in found:
            last = [record for record in found["epochs"] if "epoch" in record][-1]
            return ", ".join(f"{name} {value:.4g}" for name, value in last.items() if isinstance(value, int | float))
        return ", ".join(_numbers(found)[:_MOST]) or "done"
    rows = [row for row in found if row.get("images_per_s")]
    if rows:
        best = max(rows, key=lambda row: row["images_per_s"])
        return f"{best['images_per_s']:.0f} images/s at batch {best.get('batch', '?')}, the most of {len(rows)} rows"
    return ", ".join(_numbers(found[0])) if len(found) == 1 else f"{len(found)} rows"


def _numbers(found: dict[str, Any], of: str = "") -> list[str]:
    texts = []
    for key, value in found.items():
        if isinstance(value, dict):
            texts += _numbers(value, f"{of}{key} ")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            texts.append(f"{of}{key} {value:.4g}")
    return texts


def _beside(found: dict[str, Any]) -> str:
    """Return MLPerf's first figure, if there are any, or why ours cannot be compared with it."""
    if "published" not in found:
        return ""
    if found["not_comparable"]:
        return f" (not beside MLPerf: {found['not_comparable']})"
    row = found["published"][0]
    figure = f"{row['per_gpu']:.0f} images/s a GPU" if "per_gpu" in row else f"{row['value']} {row['unit']}"
    return f" (MLPerf {row['round']}, {row['submitter']}, {row['gpus']} x {row['gpu']}: {figure})"


def arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder with one folder of images per class")
    parser.add_argument("--model", default=DEFAULT, help="pretrained network, source:name")
    parser.add_argument("--weights", type=Path, help="safetensors file with the network's weights")
    parser.add_argument("--image-size", type=int, default=224, help="side of the input, pixels")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(STEPS), help="steps, with commas")
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")], default=list(BATCHES))
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no step after this long")
    parser.add_argument("--seconds", type=float, default=3.0, help="measured time per candidate and batch")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--work", type=Path, default=Path("build/gpu"), help="folder of the artifacts")
    parser.add_argument("--older", help="a Python 3.10 that has tensorrt 8.6.0, for the steps older-…")
    parser.add_argument("--table", action="store_true", help="only print what has been measured")
    parser.add_argument("--rehearse", action="store_true", help="run without a GPU, on a stand-in and a tiny network")
    parser.add_argument("-v", "--verbose", action="store_true", help="show tracebacks of skipped steps")
    options = parser.parse_args()
    if unknown := set(options.only) - set(STEPS):
        parser.error(f"unknown steps: {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    return options


def rehearse(options: argparse.Namespace) -> None:
    """Make this a machine with a stand-in for a GPU, small photos and a tiny network."""
    tests = HERE.parent / "tests"
    sys.path[:0] = [str(tests), str(tests / "backends"), str(tests / "fake_cuda")]
    import rehearsal

    rehearsal.enter()
    options.model, options.image_size = "tiny_models:cnn", 32
    options.seconds = min(options.seconds, 0.02)
    options.batches = [size for size in options.batches if size <= 4]
    options.images = rehearsal.photos(options.work / "photos")


def main() -> int:
    """Do the steps that are not done yet."""
    options = arguments()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    if options.rehearse:
        rehearse(options)
    from tlopt.engine.gpu import gpu, gpu_problem

    session = Session(options)
    if options.table:
        print(table(session))
        return 0
    if gpu() is None:
        print(f"Nothing can be measured here. {gpu_problem()}", file=sys.stderr)
        return 1
    if options.images is None or not options.images.is_dir():
        print("Name a folder of images: --images DIR", file=sys.stderr)
        return 2
    for name in options.only:
        if name in session.results:
            continue
        if time.monotonic() > session.ends:
            print("The time is up; the same command goes on.", file=sys.stderr)
            break
        session.do(name, STEPS[name])
    print(table(session))
    print(session.file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
