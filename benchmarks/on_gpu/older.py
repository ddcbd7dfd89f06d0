"""Steps of benchmarks/gpu.py that run engines of TensorRT 8.6 with tlopt's runner.

TensorRT 8.6.0 is the newest whose libraries lie on PyPI itself, so these steps run where NVIDIA's own index cannot be
reached. tlopt needs 10.12, and refuses 8.6 anywhere else. Its builder (--older) is a Python 3.10 with tensorrt==8.6.0.
The Python that runs these steps has tensorrt-bindings==8.6.1, whose folder is named tensorrt, and the same libraries.
What is checked is tlopt's: how it opens an engine, feeds it, runs it and reads the answers. The kernels are old.
"""

from __future__ import annotations

import hashlib
import importlib.util
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
_OPSET = 17  # the newest that its parser knows


def engine(session: Session, precision: str, largest: int) -> Any:
    """Return an engine of 8.6 for batches up to a size, tuned for the largest."""
    from tlopt.engine import flavour

    flavour._OLDEST["tensorrt"] = (8, 6)
    return session.made(f"older-{precision}-{largest}", lambda out: _build(session, precision, largest, out))


def _build(session: Session, precision: str, largest: int, out: Path) -> Any:
    from tlopt.artifact import Artifact, seal
    from tlopt.cards.details import BuiltFrom, EngineDetails, EngineOptions, Profile
    from tlopt.engine import flavour
    from tlopt.engine.gpu import gpu
    from tlopt.engine.layers import Layers
    from tlopt.publishing import draft

    if session.options.older is None:
        raise RuntimeError("no --older PYTHON is given: one that has tensorrt 8.6.0")
    source, here = session.network(precision), gpu()
    assert here is not None
    onnx, preprocess = source.payload(".onnx"), source.card.preprocess
    with draft(out, force=True) as scratch:
        graph, plan = scratch / "older.onnx", scratch / "model.engine"
        _for_its_parser(onnx, graph)
        side, batches = str(preprocess.input_shape[-1]), f"1,{largest},{largest}"
        command = [session.options.older, str(BUILDER), str(graph), str(plan), precision, side, batches]
        started = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{done.stderr[-900:]} {done.stdout[-300:]}")
        graph.unlink()
        details = EngineDetails(
            flavour="tensorrt", version=flavour.load("tensorrt").version, cuda="12", targets=(here.capability,),
            gpu=here,
            profile=Profile(
                input="images", output="logits", shape=preprocess.input_shape, dtype=preprocess.input_dtype.name,
                min_batch=1, opt_batch=largest, max_batch=largest,
            ),
            options=EngineOptions(min_batch=1, opt_batch=largest, max_batch=largest),
            inspector=Layers(source="none", rows=()).summary,
            onnx=BuiltFrom(
                artifact=source.digest, sha256=hashlib.sha256(onnx.read_bytes()).hexdigest(),
                path=os.path.relpath(onnx, out),
            ),
            answers=source.card.answers, task=source.card.task,
        )  # fmt: skip
        seal(scratch, replace(source.card, kind="tensorrt", details=details))
    print(f"  {precision}, batch {largest}: built in {time.monotonic() - started:.0f} s", flush=True)
    return Artifact.load(out)


def _for_its_parser(source: Path, target: Path) -> None:
    """Write a graph as opset 17 has it.

    Raises:
        RuntimeError: It has a mean that is no pooling of whole images.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(source)
    constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "ReduceMean" and len(node.input) == 2:  # opset 18 has the axes as an input
            if sorted(constants[node.input.pop()] % 4) != [2, 3]:
                raise RuntimeError(f"{node.name} is no pooling of whole images")
            node.op_type = "GlobalAveragePool"
            del node.attribute[:]
    for entry in model.opset_import:
        entry.version = entry.version if entry.domain else min(entry.version, _OPSET)
    onnx.save(model, target)


def checked(precision: str) -> Callable[[Session], Any]:
    """Compare an engine with ONNX Runtime on the test images, and every way to run it with the plainest."""

    def work(session: Session) -> Any:
        from tlopt.measure.compare import compare

        made = engine(session, precision, max(session.batches))
        both = {
            name: compare(session.network(name), made, reference_backend="onnxruntime:cpu").to_report().to_dict()
            for name in dict.fromkeys(("fp32", precision))
        }
        session.rows.append({"compared_with_a_processor": both})
        return {"compared_with_a_processor": both, **_alike(made, session.rows)}

    return work


def _alike(made: Any, rows: list[Any]) -> dict[str, Any]:
    """Run batches of many sizes, with graphs and without, on one stream and three; return the largest differences.

    Args:
        made: The engine.
        rows: Gets each difference as soon as it is known.
    """
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
                    which = np.arange(count) % largest
                    for _ in range(4):
                        worst = max(worst, float(np.abs(runner(inputs[which]) - single[which]).max()))
                differences[f"{device}, {streams} streams"] = worst
                rows.append({"device": device, "streams": streams, "difference": worst})
    if importlib.util.find_spec("torch") is not None:
        differences["a tensor of torch"] = _on_device(made, inputs, single)
    slowest = dict(sorted(layers.items(), key=lambda item: -item[1])[:3])
    return {
        "differences": differences,
        "logits": float(np.abs(single).max()),
        "layers": len(layers),
        "slowest_ms": slowest,
    }


def _on_device(made: Any, inputs: np.ndarray, wanted: np.ndarray) -> float:
    import torch

    with open_runner(made, "cuda") as runner:
        answered = runner.on_device(torch.from_numpy(np.ascontiguousarray(inputs)).cuda()).cpu().numpy()
    return float(np.abs(answered - wanted).max())


def speed(precision: str) -> Callable[[Session], Any]:
    """Measure the engines of one precision, one a batch, with graphs and without, and where nothing is copied."""

    def work(session: Session) -> Any:
        rows = session.rows
        for size in session.batches:
            made = engine(session, precision, size)
            rows += [{**row, "size_mb": made.size_mb} for row in session.bench([made], "tensorrt", (size,))]
            with open_runner(made, "cuda-graphs", streams=2) as runner:
                found = runner.resident(inputs_of(made, size), runs=session.runs(200))
            rows.append({"precision": precision, "batch": size, "resident": vars(found)})
        return rows

    return work
