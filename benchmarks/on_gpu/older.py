"""Steps of benchmarks/gpu.py that run engines of TensorRT 8.6 with tlopt's runner, by a runtime of a newer version.

TensorRT 8.6.0 is the newest whose libraries lie on PyPI. It needs Python 3.10. Its version-compatible engines are
opened by `tensorrt_lean`, of which PyPI has the newest version. So this is how an engine is executed where NVIDIA's own
index cannot be reached. What is measured are the kernels of 8.6, which nobody would ship; what is checked is tlopt's.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from on_gpu.session import Session, inputs_of, open_runner

BUILDER = Path(__file__).with_name("older_builder.py")
PRECISIONS = ("fp32", "fp16", "int8")


def engine(session: Session, precision: str, largest: int) -> Any:
    """Return an engine of 8.6 for batches up to a size, tuned for the largest."""
    return session.made(f"older-{precision}-{largest}", lambda out: _build(session, precision, largest, out))


def _build(session: Session, precision: str, largest: int, out: Path) -> Any:
    from tlopt.artifact import Artifact, seal
    from tlopt.cards.details import BuiltFrom, EngineDetails, EngineOptions, Profile
    from tlopt.engine.gpu import gpu
    from tlopt.engine.layers import Layers
    from tlopt.publishing import draft
    from tlopt.trusted import engines as trusted_engines

    if session.options.older is None:
        raise RuntimeError("no --older PYTHON is given: one that has tensorrt 8.6.0")
    source, here = session.network(precision), gpu()
    assert here is not None
    onnx = source.payload(".onnx")
    with draft(out, force=True) as scratch:
        plan = scratch / "model.engine"
        side = source.card.preprocess.input_shape[-1]
        command = [
            session.options.older,
            str(BUILDER),
            str(onnx),
            str(plan),
            precision,
            str(side),
            f"1,{largest},{largest}",
        ]
        started = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - started
        if done.returncode:
            raise RuntimeError(f"{done.stderr[-900:]} {done.stdout[-300:]}")
        details = EngineDetails(
            flavour="tensorrt", version=done.stdout.split()[-1], cuda="12", targets=(here.capability,), gpu=here,
            profile=Profile(
                input="images", output="logits", shape=source.card.preprocess.input_shape,
                dtype=source.card.preprocess.input_dtype.name, min_batch=1, opt_batch=largest, max_batch=largest,
            ),
            options=EngineOptions(min_batch=1, opt_batch=largest, max_batch=largest, version_compatible=True),
            inspector=Layers(source="none", rows=()).summary,
            onnx=BuiltFrom(
                artifact=source.digest, sha256=hashlib.sha256(onnx.read_bytes()).hexdigest(),
                path=os.path.relpath(onnx, out),
            ),
            answers=source.card.answers, task=source.card.task,
        )  # fmt: skip
        trusted_engines.remember(hashlib.sha256(plan.read_bytes()).hexdigest(), out / plan.name)
        seal(scratch, replace(source.card, kind="tensorrt", details=details))
    print(f"  {precision}, batch {largest}: {seconds:.0f} s", flush=True)
    return Artifact.load(out)


def checked(session: Session) -> Any:
    """Compare every way to run an engine with the first one and with the network in torch, on real images."""
    from tlopt.measure.compare import compare

    reference = session.backends("torch")[0]
    found: dict[str, Any] = {}
    for precision in PRECISIONS:
        made = engine(session, precision, max(session.batches))
        report = compare(session.tuned(), made, reference_backend=reference).to_report().to_dict()
        found[precision] = {"compared": report, **_alike(made)}
    return found


def _alike(made: Any) -> dict[str, Any]:
    """Run batches of many sizes by streams, graphs, tensors of torch: all give what single images give."""
    import torch

    largest = made.card.engine.profile.max_batch
    inputs = inputs_of(made, largest)
    with open_runner(made, "cuda") as runner:
        single = np.concatenate([runner(inputs[i : i + 1]) for i in range(largest)])
        layers = runner.layer_times(inputs[:1], warm=3, runs=10)
    differences = {}
    for device in ("cuda", "cuda-graphs"):
        for streams in (1, 3):
            with open_runner(made, device, streams=streams) as runner:
                worst = 0.0
                for count in (1, 2, 3, largest - 1, largest, 2 * largest + 3):
                    images = inputs[np.arange(count) % largest]
                    for _ in range(4):
                        worst = max(worst, float(np.abs(runner(images) - single[np.arange(count) % largest]).max()))
                differences[f"{device}, {streams} streams"] = worst
    with open_runner(made, "cuda") as runner:
        answered = runner.on_device(torch.from_numpy(np.ascontiguousarray(inputs)).cuda()).cpu().numpy()
    differences["a tensor of torch"] = float(np.abs(answered - single).max())
    return {"largest_difference": differences, "logits": float(np.abs(single).max()), "layers": len(layers)}


def speed(precision: str) -> Callable[[Session], Any]:
    """Measure the engines of one precision, one a batch, with graphs and without."""

    def work(session: Session) -> Any:
        rows = []
        for size in session.batches:
            made = engine(session, precision, size)
            rows += [{**row, "size_mb": made.size_mb} for row in session.bench([made], "tensorrt", (size,))]
            with open_runner(made, "cuda-graphs", streams=2) as runner:
                found = runner.resident(inputs_of(made, size), runs=session.runs(200))
            rows.append({"precision": precision, "batch": size, "resident": vars(found)})
        return rows

    return work
