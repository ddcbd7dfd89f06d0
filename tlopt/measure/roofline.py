"""How near an artifact comes to what the machine can do at best.

S. Williams, A. Waterman, D. Patterson, "Roofline", Communications of the ACM 52 (2009).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from tlopt.artifact import Artifact
from tlopt.environment import MOST_THREADS, cores, processor, versions
from tlopt.errors import StageError
from tlopt.measure.bench import bench
from tlopt.measure.candidates import labels
from tlopt.measure.speed.work import Layer, layers
from tlopt.reports import Report, Scalar
from tlopt.sessions import open_session
from tlopt.settings import MOST_IN_BATCH, Setting, checked

_SIDE = 1024  # of the matrices that the peak is measured with: past the caches' small levels, fast enough
_COPY_MB = 256  # larger than the last cache of common processors


@checked
def roofline(
    artifacts: Sequence[str | Path | Artifact],
    *,
    batch: Annotated[
        tuple[int, ...],
        Setting("Images per run. Several numbers are measured one after the other.", minimum=1, maximum=MOST_IN_BATCH),
    ] = (1, 32),
    backend: Annotated[tuple[str, ...], Setting("Backends that run on the processor. Default: the usual ones.")] = (),
    seconds: Annotated[
        float, Setting("Time measured for each artifact, backend and batch, in seconds.", minimum=0.01)
    ] = 3.0,
    threads: Annotated[
        int, Setting("Processor threads of a run. 0 takes one per core.", minimum=0, maximum=MOST_THREADS)
    ] = 0,
) -> Report:
    """Measure the share of the processor's peak that is used.

    The peaks of this machine are measured first. A large matrix product gives the multiply-adds a
    second. Copying memory gives the bytes a second.

    The multiply-adds and the bytes of an artifact each need a least time. The larger of the two times is
    the bound of the artifact. The table shows the share of the bound that is reached.

    Raises:
        ArtifactError: An artifact is not of kind onnx, or a shape in it cannot be inferred.
        StageError: A backend is not one of the processor.
    """
    loaded = [Artifact.load(artifact).expect("onnx") for artifact in artifacts]
    named = dict(zip(labels(loaded), loaded, strict=True))
    if other := [name for name in backend if name.partition(":")[2] not in ("", "cpu", "cpu-throughput")]:
        raise StageError(f"roofline measures the processor's peaks, but {', '.join(other)} runs on another device.")
    work = {(name, b): layers(artifact, batch=b) for name, artifact in named.items() for b in batch}
    threads = threads or cores()
    peaks = {name: peak_gmacs_per_s(name, threads) for name in {_computed(artifact) for artifact in loaded}}
    bandwidth = bandwidth_gb_per_s(threads)
    timed = bench(loaded, batch=batch, backend=backend, seconds=seconds, threads=threads, memory=False)

    def rows() -> list[dict[str, Scalar]]:
        return [
            dict(row)
            if "skipped" in row
            else _row(
                row,
                work[str(row["artifact"]), int(row["batch"] or 1)],
                peak=peaks[_computed(named[str(row["artifact"])])],
                bandwidth=bandwidth,
            )
            for row in timed.rows
        ]

    if _beyond(rows()):  # other programs were in the way: a peak is what nothing disturbed
        peaks = {name: max(peak, peak_gmacs_per_s(name, threads)) for name, peak in peaks.items()}
        bandwidth = max(bandwidth, bandwidth_gb_per_s(threads))
    found = rows()
    return Report(
        title=f"Share of the machine's peak that is reached, {threads} thread{'s' * (threads != 1)}",
        rows=tuple(found),
        notes=(*_beyond(found), *timed.notes),
        not_run=timed.not_run,
        conditions={
            "processor": processor(),
            "threads": threads,
            "peak_gmacs_per_s": peaks,
            "bandwidth_gb_per_s": bandwidth,
            "seconds": seconds,
            "runners": timed.conditions["runners"],
            "versions": versions(),
        },
    )


def _row(row: Mapping[str, Scalar], counted: Sequence[Layer], *, peak: float, bandwidth: float) -> dict[str, Scalar]:
    """Return what was timed, beside its bound.

    Args:
        row: Of the bench.
        counted: The layers of the artifact.
        peak: 10^9 multiply-adds a second.
        bandwidth: 10^9 bytes a second.
    """
    gmacs, gbytes = sum(layer.macs for layer in counted) / 1e9, sum(layer.moved for layer in counted) / 1e9
    computing, moving = gmacs / peak, gbytes / bandwidth
    taken = float(row["p50_ms"] or 0) / 1e3
    return {
        **{name: row[name] for name in ("artifact", "precision", "backend", "batch", "p50_ms")},
        "mmacs": gmacs * 1e3,
        "moved_mb": gbytes * 1e3,
        "macs_per_byte": gmacs / gbytes,
        "gmacs_per_s": gmacs / taken,
        "bound_by": "multiply-adds" if computing > moving else "memory",
        "bound_ms": max(computing, moving) * 1e3,
        "reached": max(computing, moving) / taken,
    }


def _beyond(rows: Sequence[Mapping[str, Scalar]]) -> list[str]:
    """Return which shares are above 1, and what that means, as a note; none if there is no such share."""
    beyond = [row for row in rows if float(row.get("reached") or 0) > 1]
    if not beyond:
        return []
    which = ", ".join(dict.fromkeys(f"{row['artifact']} in batches of {row['batch']}" for row in beyond))
    causes = {
        "memory": "its tensors stayed in the caches, which are faster than memory",
        "multiply-adds": "its operators compute faster than the matrix product that was measured",
    }
    why = " or ".join(dict.fromkeys(causes[str(row["bound_by"])] for row in beyond))
    return [
        f"More than the peak was reached by {which}. Do not trust that share: {why}, or other programs were in the way "
        "when the peaks were measured, twice."
    ]


def _computed(artifact: Artifact) -> str:
    """Return the precision that a processor computes in: fp16 graphs run in fp32 on most, those for TensorRT too."""
    card = artifact.card
    return "int8" if card.precision == "int8" and card.made_for != "tensorrt" else "fp32"


def peak_gmacs_per_s(precision: str, threads: int) -> float:
    """Measure the fastest of some large matrix products on ONNX Runtime, 10^9 multiply-adds a second."""
    from onnx import TensorProto, helper

    integer = precision == "int8"
    kind = TensorProto.UINT8 if integer else TensorProto.FLOAT
    shape = [_SIDE, _SIDE]
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger" if integer else "MatMul", ["a", "b"], ["c"])],
        "peak",
        [
            helper.make_tensor_value_info("a", kind, shape),
            helper.make_tensor_value_info("b", TensorProto.INT8 if integer else kind, shape),
        ],
        [helper.make_tensor_value_info("c", TensorProto.INT32 if integer else kind, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = open_session(model, threads=threads)
    random = np.random.default_rng(0)
    feed: dict[str, Any]
    if integer:
        feed = {
            "a": random.integers(0, 255, shape, dtype=np.uint8),
            "b": random.integers(-127, 127, shape, dtype=np.int8),
        }
    else:
        feed = {name: random.standard_normal(shape, dtype=np.float32) for name in ("a", "b")}
    return _SIDE**3 / _fastest(lambda: session.run(None, feed)) / 1e9


def bandwidth_gb_per_s(threads: int) -> float:
    """Measure the fastest of some copies of a large array, 10^9 bytes read and written a second."""
    source = np.ones(_COPY_MB * 1_000_000, np.uint8)
    target = np.empty_like(source)
    parts = list(zip(np.array_split(source, threads), np.array_split(target, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        taken = _fastest(lambda: list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), parts)))
    return 2 * source.nbytes / taken / 1e9


def _fastest(call: Callable[[], object], *, seconds: float = 1.0) -> float:
    """Return the shortest duration of a call, seconds: a peak is what nothing disturbed."""
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return best
