"""Build, verify and measure everything that runs on an NVIDIA GPU, step by step.

    python benchmarks/gpu.py --images DIR [--only STEP,…] [--batches 1,8,64] [--minutes 60]
    python benchmarks/gpu.py --table              # what has been measured so far
    python benchmarks/gpu.py --rehearse           # all of it, without a GPU, on a stand-in and a tiny network

The result is ``gpu-<device>.json``. It is saved after every step. A step that is in it is not done again: start the
command once more to go on. A step that cannot be done is skipped with its reason, and tried again the next time.

Nothing here has run on a GPU yet. It was rehearsed without one.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tlopt.publishing import write_whole

HERE = Path(__file__).resolve().parent
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Session:
    """What has been measured, where it is kept, and the artifacts that the steps share."""

    def __init__(self, options: argparse.Namespace) -> None:
        from tlopt.engine.gpu import gpu

        here = gpu()
        self.options = options
        self.device = "rehearsal" if options.rehearse else here.name if here else "none"
        self.batches = tuple(options.batches)
        self.ends = time.monotonic() + 60 * options.minutes
        options.out.mkdir(parents=True, exist_ok=True)
        self.file = options.out / f"gpu-{re.sub(r'[^a-z0-9]+', '-', self.device.lower()).strip('-')}.json"
        found = json.loads(self.file.read_text(encoding="utf-8")) if self.file.exists() else {}
        self.results: dict[str, Any] = found.get("results", {})
        self.skipped: dict[str, str] = found.get("skipped", {})

    def save(self) -> None:
        """Write all that is known."""
        from tlopt.environment import processor, versions

        content = {
            "title": f"GPU side of tlopt on {self.device}",
            "conditions": {
                "device": self.device,
                "processor": processor(),
                "versions": versions(),
                "command": "python benchmarks/gpu.py " + " ".join(sys.argv[1:]),
                "images": self.options.images.name,
                "model": self.options.model,
                "batches": list(self.batches),
            },
            "results": self.results,
            "skipped": self.skipped,
        }
        write_whole(self.file, json.dumps(content, indent=1, default=str) + "\n")

    def do(self, name: str, work: Callable[[Session], Any]) -> None:
        """Do a step and save: whatever happens in the next one, what was measured is not lost."""
        print(f"{name} …", file=sys.stderr, flush=True)
        started = time.monotonic()
        self.skipped.pop(name, None)
        try:
            result = work(self)
        except Exception as error:  # noqa: BLE001 -- reported; the other steps go on
            if self.options.verbose:
                traceback.print_exc()
            self.skipped[name] = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"  skipped: {self.skipped[name]}", file=sys.stderr, flush=True)
        else:
            self.results[name] = {"seconds": round(time.monotonic() - started, 1), "found": result}
        self.save()

    def made(self, name: str, make: Callable[[Path], Any]) -> Any:
        """Return an artifact of the work folder, made if it is not there."""
        from tlopt.artifact import CARD_NAME, Artifact

        place = self.options.work / name
        return Artifact.load(place) if (place / CARD_NAME).exists() else make(place)

    def tuned(self) -> Any:
        """Return the fine-tuned network."""
        return self.made("tuned", lambda out: _finetune(self, out, epochs=2))

    def network(self, precision: str) -> Any:
        """Return the ONNX artifact of a precision."""
        from tlopt.stages.export import export
        from tlopt.stages.quantize import quantize

        if precision == "fp32":
            return self.made("fp32", lambda out: export(self.tuned(), out))
        return self.made(
            precision, lambda out: quantize(self.network("fp32"), out, precision=precision, for_="tensorrt")
        )

    def engine(self, precision: str, batch: int, name: str = "", **options: Any) -> Any:
        """Return the engine for one batch, tuned for it and for no other."""
        build = _builder(self)
        return self.made(
            f"engine-{precision}-{batch}{name}",
            lambda out: build(self.network(precision), out, opt_batch=batch, max_batch=batch, **options),
        )

    def backends(self, kind: str) -> tuple[str, ...]:
        """Return the ways to run artifacts of a kind that are measured."""
        if self.options.rehearse and kind != "tensorrt":
            return ("torch:cpu",) if kind == "torch" else ("onnxruntime:cpu",)
        return {
            "torch": ("torch:cuda", "torch:cuda-half", "torch:cuda-half-compiled"),
            "onnx": ("onnxruntime:cuda",),
            "tensorrt": ("tensorrt:cuda", "tensorrt:cuda-graphs"),
        }[kind]

    def bench(self, artifacts: list[Any], kind: str, batches: tuple[int, ...], **settings: Any) -> list[Any]:
        """Return the rows of `tlopt bench`."""
        from tlopt.measure.bench import bench

        found = bench(
            artifacts,
            batch=batches,
            backend=self.backends(kind),
            seconds=self.options.seconds,
            memory=False,
            **settings,
        )
        rows = [dict(row) for row in found.rows]
        reasons = [str(row["skipped"]) for row in rows if "skipped" in row]
        if reasons and len(reasons) == len(rows):
            raise RuntimeError(reasons[0])
        return rows


def _builder(session: Session) -> Any:
    if session.options.rehearse:
        import rehearsal

        return rehearsal.build
    from tlopt.stages.build import build

    return lambda network, out, **options: build(network, out, target=("current",), **options)


def _finetune(session: Session, out: Path, **settings: Any) -> Any:
    from tlopt.stages.finetune import finetune

    options = session.options
    return finetune(
        options.images, out, model=options.model, image_size=options.image_size, method="full", force=True, **settings
    )


def training(**settings: Any) -> Callable[[Session], Any]:
    """Fine-tune for two epochs; the second one's speed counts, since the first loads and compiles."""

    def work(session: Session) -> Any:
        made = _finetune(session, session.options.work / "trained", epochs=2, **settings)
        step = made.card.lineage[-1]
        epochs = [json.loads(line) for line in (made.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        if not session.options.rehearse and session.device not in step.device:
            raise RuntimeError(f"the training ran on {step.device}, not on {session.device}")
        return {"device": step.device, "settings": dict(step.settings), "seconds": step.seconds, "epochs": epochs}

    return work


def several_gpus(session: Session) -> Any:
    """Fine-tune on all GPUs with torchrun."""
    import torch

    count = torch.cuda.device_count()
    if count < 2:
        raise RuntimeError(f"there are {count} GPUs here")
    options = session.options
    out = options.work / "several"
    command = ["torchrun", "--no-python", f"--nproc-per-node={count}", "tlopt", "finetune", str(options.images)]
    command += ["-o", str(out), "--model", options.model, "--epochs", "2", "--force", "--method", "full"]
    started = time.monotonic()
    subprocess.run(command, check=True)
    return {"gpus": count, "seconds": time.monotonic() - started}


def torch_speed(session: Session) -> Any:
    """Measure torch: eager, channels last in fp16, compiled with max-autotune."""
    return session.bench([session.tuned()], "torch", session.batches)


def onnxruntime_speed(session: Session) -> Any:
    """Measure ONNX Runtime with CUDA."""
    return session.bench([session.network(name) for name in ("fp32", "fp16")], "onnx", session.batches)


def engines(precision: str) -> Callable[[Session], Any]:
    """Measure the engines of one precision, one a batch, with graphs and without; then its memory is free again."""

    def work(session: Session) -> Any:
        rows = []
        for size in session.batches:
            engine = session.engine(precision, size)
            facts = {"size_mb": engine.size_mb, "build_seconds": engine.card.lineage[-1].seconds}
            rows += [{**row, **facts} for row in session.bench([engine], "tensorrt", (size,))]
        return rows

    return work


def resident(session: Session) -> Any:
    """Measure throughput at the largest batch when nothing is copied, with 1 to 4 streams."""
    rows = []
    for precision in ("fp16", "int8"):
        size = max(session.batches)
        engine = session.engine(precision, size)
        for streams in (1, 2, 3, 4):
            with _runner(engine, "cuda-graphs", streams=streams) as runner:
                found = runner.resident(_inputs(engine, size), runs=20 if session.options.rehearse else 200)
            rows.append({"precision": precision, "batch": size, "streams": streams, **vars(found)})
    return rows


def latency(session: Session) -> Any:
    """Measure batch 1 beside trtexec: both time one query after the other, with its copies."""
    from tlopt.timing import medians_ms

    engine = session.engine("int8", 1)
    with _runner(engine, "cuda-graphs") as runner:
        inputs = _inputs(engine, 1)
        (ours,) = medians_ms([lambda: runner(inputs)], seconds=session.options.seconds, turns=5)
        runner(inputs)
        found = {"median_ms": ours, "gpu_ms": runner.gpu_times_ms()[0]}
    if (trtexec := shutil.which("trtexec")) is None:
        return {**found, "trtexec": "not installed"}
    plan = engine.payload(".engine")
    said = subprocess.run(
        [trtexec, f"--loadEngine={plan}", "--useCudaGraph"], capture_output=True, text=True, check=True
    )
    figures = re.findall(r"(Latency|GPU Compute Time): .*?median = ([\d.]+) ms.*?99%\) = ([\d.]+) ms", said.stdout)
    # Its latency is copies and computing by the GPU's clock; ours is from call to answer, with Python's share.
    return {**found, "trtexec": {name: {"p50_ms": float(a), "p99_ms": float(b)} for name, a, b in figures}}


def loadgen_scenario(scenario: str) -> Callable[[Session], Any]:
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
            logs=session.options.work / "loadgen",
        )
        return [dict(row) for row in report.rows]

    return work


def end_to_end(session: Session) -> Any:
    """Measure the way from the files on disk to the answer."""
    size = max(session.batches)
    return session.bench([session.engine("int8", size)], "tensorrt", (size,), end_to_end=True)


def refit(session: Session) -> Any:
    """Give a refittable engine the weights that it has: nothing may change."""
    size = max(session.batches)
    engine = session.engine("fp16", size, "-refit", refit=True)
    with _runner(engine, "cuda-graphs") as runner:
        inputs = _inputs(engine, size)
        before = [runner(inputs) for _ in range(3)][-1]
        started = time.perf_counter()
        runner.refit(session.network("fp16").payload(".onnx"))
        seconds = time.perf_counter() - started
        after = [runner(inputs) for _ in range(3)][-1]
    return {"refit_seconds": seconds, "largest_difference": float(abs(after - before).max())}


def variant(name: str, **options: Any) -> Callable[[Session], Any]:
    """Build and open a kind of engine: how long both take, how large it is, and whether it answers alike."""

    def work(session: Session) -> Any:
        size = max(session.batches)
        chosen = dict(options)
        if "timing_cache" in chosen:
            chosen["timing_cache"] = session.options.work / "timing-cache"
        plain = session.engine("fp16", size)
        started = time.perf_counter()
        built = session.engine("fp16", size, f"-{name}", **chosen)
        seconds = time.perf_counter() - started
        inputs = _inputs(plain, size)
        answers = []
        started = time.perf_counter()
        for engine in (built, plain):
            with _runner(engine, "cuda") as runner:
                answers.append(runner(inputs))
        return {
            "build_seconds": seconds,
            "size_mb": built.size_mb,
            "open_both_seconds": time.perf_counter() - started,
            "largest_difference": float(abs(answers[0] - answers[1]).max()),
        }

    return work


def accuracy(precision: str) -> Callable[[Session], Any]:
    """Compare an engine's answers with those of the fp32 network on the test images."""

    def work(session: Session) -> Any:
        from tlopt.measure.compare import compare

        engine = session.engine(precision, max(session.batches))
        reference = session.backends("torch")[0]
        return compare(session.tuned(), engine, reference_backend=reference).to_report().to_dict()

    return work


def energy(session: Session) -> Any:
    """Measure the energy per image at the largest batch, of each precision."""
    size = max(session.batches)
    keys = ("precision", "backend", "batch", "images_per_s", "gpu_w", "gpu_mj_per_image")
    rows = [
        row for name in ("fp16", "int8") for row in session.bench([session.engine(name, size)], "tensorrt", (size,))
    ]
    return [{key: row.get(key) for key in keys} for row in rows]


def _runner(engine: Any, device: str, streams: int = 1) -> Any:
    from tlopt.backends.tensorrt import Runner

    return Runner(engine, device=device, streams=streams)


def _inputs(engine: Any, size: int) -> Any:
    from tlopt.measure.speed.feeds import Inputs

    return Inputs(None, noise=False, largest=size).of(engine)[:size]


PRECISIONS = ("fp32", "fp16", "int8", "fp8")
STEPS: dict[str, Callable[[Session], Any]] = {
    "train-fp32": training(precision="fp32"),
    "train-bf16": training(precision="bf16"),
    "train-compiled": training(precision="bf16", compile=True),
    "train-several-gpus": several_gpus,
    "torch": torch_speed,
    "onnxruntime": onnxruntime_speed,
    **{f"tensorrt-{name}": engines(name) for name in PRECISIONS},
    "resident": resident,
    "latency": latency,
    **{f"loadgen-{name}": loadgen_scenario(name) for name in ("offline", "server", "single-stream")},
    "end-to-end": end_to_end,
    "refit": refit,
    "strip": variant("strip", strip_weights=True),
    "timing-cache": variant("timed", timing_cache=True),
    "version-compatible": variant("compatible", version_compatible=True),
    **{f"accuracy-{name}": accuracy(name) for name in PRECISIONS},
    "energy": energy,
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
    rows = [row for row in found if "images_per_s" in row] if isinstance(found, list) else []
    if rows:
        best = max(rows, key=lambda row: row["images_per_s"] or 0)
        return f"{best['images_per_s']:.0f} images/s at batch {best.get('batch', '?')}, the most of {len(rows)} rows"
    if isinstance(found, dict):
        return ", ".join(f"{key} {value:.4g}" for key, value in found.items() if isinstance(value, int | float))
    return f"{len(found)} rows"


def arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder with one folder of images per class")
    parser.add_argument("--model", default="pip:efficientnet_lite0", help="pretrained network, source:name")
    parser.add_argument("--image-size", type=int, default=224, help="side of the input, pixels")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(STEPS), help="steps, with commas")
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")], default=list(BATCHES))
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no step after this long")
    parser.add_argument("--seconds", type=float, default=3.0, help="measured time per candidate and batch")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--work", type=Path, default=Path("build/gpu"), help="folder of the artifacts")
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
