"""Build, verify and measure everything that runs on an NVIDIA GPU; what cannot run is skipped with its reason.

This script has not yet run on a GPU: it was written and rehearsed on machines without one
(`--rehearse` does on the processor what can be done there, with the same code).

    python benchmarks/gpu.py --images DIR [--model SOURCE:NAME] [--out benchmarks/results]

Without --images it uses ../shared/data/clothing10 where that exists. The result is
``gpu-<device>.json``: conditions, the tables of `tlopt bench`, parity of every engine with the
fine-tuned network, streams, zero-copy and fine-tuning throughput, and what was skipped and why.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from tlopt import registry
from tlopt.artifact import Artifact
from tlopt.cards.card import plain
from tlopt.engine.gpu import gpu, gpu_problem
from tlopt.environment import processor, versions
from tlopt.errors import ImagesError, TloptError
from tlopt.images import batches, reopen
from tlopt.measure.bench import bench
from tlopt.measure.compare import compare
from tlopt.publishing import write_whole
from tlopt.stages.build import build
from tlopt.stages.export import export
from tlopt.stages.finetune import finetune

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "clothing10"
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
ON_GPU = {
    "torch": ("torch:cuda", "torch:cuda-compiled", "torch:cuda-fp16"),
    "onnx": ("onnxruntime:cuda",),
    "tensorrt": ("tensorrt:cuda", "tensorrt:cuda-graphs"),
}
REHEARSED = {"torch": ("torch:cpu",), "onnx": ("onnxruntime:cpu",), "tensorrt": ()}


class Session:
    """What has been measured so far, and what was skipped."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self.options, self.work = options, work
        self.results: dict[str, Any] = {}
        self.skipped: dict[str, str] = {}
        self.backends = REHEARSED if options.rehearse else ON_GPU
        self.batches = tuple(size for size in BATCHES if not options.rehearse or size <= 4)

    def step(self, name: str, work: Callable[[], Any]) -> Any:
        """Do one thing; when it cannot be done, note why and go on: what was measured must not be lost."""
        print(f"{name} …", file=sys.stderr, flush=True)
        started = time.perf_counter()
        try:
            done = work()
        except TloptError as error:
            self.skip(name, str(error))
            return None
        except Exception as error:  # noqa: BLE001 -- reported, with its traceback
            traceback.print_exc()
            self.skip(name, f"failed: {type(error).__name__}: {error}")
            return None
        print(f"  {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
        return done

    def skip(self, name: str, reason: str) -> None:
        """Note that something is not done."""
        self.skipped[name] = " ".join(reason.split())
        print(f"skipped: {name}: {self.skipped[name]}", file=sys.stderr, flush=True)

    def usable(self, kind: str) -> tuple[str, ...]:
        """Return the backends of a kind that work here; the others are skipped with their reason."""
        found = []
        for backend in self.backends[kind]:
            if reason := problem(backend):
                self.skip(backend, reason)
            else:
                found.append(backend)
        return tuple(found)


def problem(backend: str) -> str:
    """Return why a backend cannot run here, empty if it can."""
    name, _, device = backend.partition(":")
    try:
        reason: str = registry.load("backends", name).problem(device)
    except TloptError as error:
        return str(error)
    return reason


def main() -> int:
    """Run all of it."""
    options = arguments()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    with tempfile.TemporaryDirectory() as scratch:
        session = Session(options, options.work or Path(scratch))
        if gpu() is None and not options.rehearse:
            print(f"Nothing can be measured here. {gpu_problem()}", file=sys.stderr)
            for kind in ON_GPU:
                session.usable(kind)
            session.skip("fine-tuning throughput", gpu_problem())
            return 0
        images = options.images or SHARED
        if not images.is_dir():
            print("Name a folder of images: --images DIR", file=sys.stderr)
            return 2
        try:
            run(session, images)
        finally:
            save(session, images)
    return 0


def arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder with one folder of images per class")
    parser.add_argument("--model", default="pip:efficientnet_lite0", help="pretrained network, source:name")
    parser.add_argument("--image-size", type=int, default=224, help="side of the input, pixels")
    parser.add_argument("--seconds", type=float, default=3.0, help="measured time per candidate and batch")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    parser.add_argument("--work", type=Path, help="keep the artifacts in this folder")
    parser.add_argument("--rehearse", action="store_true", help="run on the processor, to test this script")
    return parser.parse_args()


def run(session: Session, images: Path) -> None:
    """Fine-tune, export, quantize, build; then verify and measure what came out."""
    options, work = session.options, session.work
    tuned = session.step("fine-tuning throughput", lambda: tune(session, images))
    if tuned is None:
        return
    session.results["bench torch"] = measured(session, [tuned], "torch")
    exported = session.step("export", lambda: export(tuned, work / "fp32"))
    if exported is None:
        return
    networks = {"fp32": exported}
    for precision in PRECISIONS[1:]:
        made = session.step(f"quantize {precision}", lambda precision=precision: quantized(exported, work, precision))
        if made is not None:
            networks[precision] = made
    session.results["bench onnxruntime"] = measured(session, list(networks.values()), "onnx")
    engines = []
    for precision, network in networks.items():
        engine = session.step(
            f"build {precision}",
            lambda network=network, precision=precision: build(
                network,
                work / f"engine-{precision}",
                target=("auto",) if options.rehearse else ("current",),
                opt_batch=32,
                max_batch=max(BATCHES),
            ),
        )
        if engine is not None:
            engines.append(engine)
            session.results.setdefault("engines", {})[precision] = engine_facts(engine)
    if not (runners := session.usable("tensorrt")):
        return
    for engine in engines:
        name = engine.card.precision
        session.results.setdefault("parity", {})[name] = session.step(
            f"verify {name}", lambda engine=engine: verified(tuned, engine, runners)
        )
        session.results.setdefault("streams", {})[name] = session.step(
            f"streams {name}", lambda engine=engine: streamed(engine, options.seconds)
        )
    session.results["bench tensorrt"] = measured(session, engines, "tensorrt", runners)


def tune(session: Session, images: Path) -> Artifact:
    """Fine-tune, and take the throughput from the difference of two runs: start-up and test drop out.

    A run before both warms up what is loaded and compiled once.
    """
    epochs = (1, 1, 3 if session.options.rehearse else 6)
    made, seconds = [], []
    for count in epochs:
        started = time.perf_counter()
        made.append(
            finetune(
                images,
                session.work / f"tuned-{count}",
                model=session.options.model,
                image_size=session.options.image_size,
                epochs=count,
                method="full",
                force=True,
            )
        )
        seconds.append(time.perf_counter() - started)
    reference = made[-1].card.images
    assert reference is not None
    photos, more = len(reopen(reference)["train"]), epochs[2] - epochs[1]
    longer = seconds[2] - seconds[1]
    session.results["fine-tuning"] = {
        "images_per_second": photos * more / longer if longer > 0 else None,
        "training_images": photos,
        "epochs": list(epochs),
        "seconds": [round(value, 2) for value in seconds],
        "settings": dict(made[-1].card.lineage[-1].settings),
    }
    return made[-1]


def quantized(network: Artifact, work: Path, precision: str) -> Artifact:
    """Quantize for TensorRT, with calibration on training images."""
    quantize = registry.require("tlopt.stages.quantize").quantize
    made: Artifact = quantize(network, work / precision, precision=precision, for_="tensorrt", force=True)
    return made


def engine_facts(engine: Artifact) -> dict[str, Any]:
    """Return what the card says about an engine."""
    details = plain(engine.card.engine)
    facts = {name: details[name] for name in ("flavour", "version", "cuda", "targets", "gpu", "profile", "inspector")}
    return {**facts, "size_mb": engine.size_mb, "build_seconds": engine.card.lineage[-1].seconds}


def measured(session: Session, artifacts: list[Artifact], kind: str, backends: tuple[str, ...] = ()) -> Any:
    """Return the bench of artifacts of one kind over all batches."""
    backends = backends or session.usable(kind)
    if not backends or not artifacts:
        return None
    report = session.step(
        f"bench {kind}",
        lambda: bench(artifacts, batch=session.batches, backend=backends, seconds=session.options.seconds),
    )
    return None if report is None else report.to_dict()


def photos(artifact: Artifact, size: int) -> list[np.ndarray]:
    """Return batches of the artifact's own test photos, all of one size."""
    reference = artifact.card.images
    assert reference is not None
    found = batches(reopen(reference)["test"], artifact.card.preprocess, batch=size)
    full = [batch.inputs for batch in found if len(batch.inputs) == size]
    if not full:
        raise ImagesError(f"The test split has fewer than {size} photos.", hint="Name a larger folder with --images.")
    return full


def verified(tuned: Artifact, engine: Artifact, runners: tuple[str, ...]) -> dict[str, Any]:
    """Return agreement with the fine-tuned network, and that all ways of running give the same logits."""
    compared = compare(tuned, engine, reference_backend="torch:cuda").to_report().to_dict()
    inputs = photos(engine, 8)[0]
    logits = {}
    for backend in runners:
        with registry.load("backends", "tensorrt").Runner(engine, device=backend.partition(":")[2]) as runner:
            # Three times: eager, captured, launched again.
            logits[backend] = [runner(inputs) for _ in range(3)][-1]
    with registry.load("backends", "tensorrt").Runner(engine, streams=3) as runner:
        logits["3 streams"] = list(runner.stream([inputs] * 7))[-1]
        if not problem("torch:cuda"):
            import torch

            tensor = torch.from_numpy(inputs).cuda()
            logits["zero-copy"] = runner.on_device(tensor).float().cpu().numpy()
    first = next(iter(logits.values()))
    differences = {name: float(np.abs(found - first).max()) for name, found in logits.items()}
    return {"compare": compared, "largest_difference_of_logits": differences}


def streamed(engine: Artifact, seconds: float) -> list[dict[str, Any]]:
    """Return throughput from host memory to host memory with 1 to 4 streams, and the GPU's own time."""
    rows = []
    for size in (1, 32):
        inputs = photos(engine, size)[:16]
        for streams in (1, 2, 3, 4):
            with registry.load("backends", "tensorrt").Runner(engine, streams=streams) as runner:
                for _ in runner.stream(inputs):
                    pass
                done, started = 0, time.perf_counter()
                for logits in runner.stream(until(inputs, started + seconds)):
                    done += len(logits)
                rows.append(
                    {
                        "batch": size,
                        "streams": streams,
                        "images_per_second": done / (time.perf_counter() - started),
                        "gpu_ms": statistics.median(lane.gpu_ms for lane in runner.lanes),
                        "gpu_with_copies_ms": statistics.median(lane.gpu_with_copies_ms for lane in runner.lanes),
                    }
                )
    return rows


def until(inputs: list[np.ndarray], end: float) -> Iterator[np.ndarray]:
    """Yield the batches over and over until a moment of `time.perf_counter`."""
    for batch in cycle(inputs):
        if time.perf_counter() >= end:
            return
        yield batch


def save(session: Session, images: Path) -> None:
    """Write the result, named by the device."""
    here = gpu()
    device = here.name if here else f"rehearsal {processor()}"
    shared = SHARED.parent in (images.resolve(), *images.resolve().parents)
    content = {
        "title": f"GPU side of tlopt on {device}",
        "conditions": {
            "device": device,
            "gpu": vars(here) if here else None,
            "processor": processor(),
            "versions": versions(),
            "command": "benchmarks/gpu.sh " + " ".join(sys.argv[1:]),
            "images": images.name + (" (../shared, not part of this repository)" if shared else ""),
            "model": session.options.model,
            "input": "photos of the test split",
        },
        "results": session.results,
        "skipped": session.skipped,
    }
    session.options.out.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    file = session.options.out / f"gpu-{name}.json"
    write_whole(file, json.dumps(content, indent=1, default=str) + "\n")
    print(file)


if __name__ == "__main__":
    sys.exit(main())
