"""What benchmarks of int8 share: how other tools quantize, and how a network is judged and timed beside float.

Latency is that of sessions opened anew, in turns: where a session's memory comes to lie makes it faster or slower for
its whole life.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from tlopt.artifact import Artifact
from tlopt.backends import reduced_range
from tlopt.environment import cores
from tlopt.measure.statistics import wilson
from tlopt.sessions import open_session

RESULTS = Path(__file__).parent / "results"
BATCHES = (1, 32)
Call = Callable[[np.ndarray], np.ndarray]
WARM, FINAL_TURNS = 3, 21


@dataclass(frozen=True)
class Made:
    """A quantized network, the seconds that it took, and what --max-drop said of its blocks."""

    path: Path
    seconds: float = 0.0
    sensitivity: dict[str, Any] = field(default_factory=dict)


def ort(path: Path, *, integers: bool = True) -> Call:
    session = open_session(path, entries={} if integers else {"session.disable_quant_qdq": "1"})
    entry = session.get_inputs()[0].name
    return lambda inputs: session.run(None, {entry: inputs})[0]


def ov(path: Path) -> Call:
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": cores(), "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(path), "CPU", hints)
    return lambda inputs: compiled(inputs)[0]


RUNTIMES: dict[str, Callable[[Path], Call]] = {
    "onnxruntime": ort,
    "openvino": ov,
    "exact": functools.partial(ort, integers=False),
}
WHOLE = ", whole range"


def peers(fp32: Path, calibration: list[np.ndarray], folder: Path) -> dict[str, Path]:
    """Quantize with the other tools at the settings that do them justice."""
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    made = {}
    prepared = prepared_for_ort(fp32, folder)
    saturates = reduced_range("onnxruntime", "auto")
    settings = [("u8s8", method, saturates) for method in ("MinMax", "Percentile", "Entropy")]
    if saturates:
        settings += [("u8s8", method, False) for method in ("MinMax", "Percentile")]
    else:
        settings.append(("s8s8", "MinMax", False))
    for kind, method, reduced in settings:
        name = f"ORT quantize_static {kind} {method}{WHOLE * (saturates and not reduced)}"
        made[name] = folder / f"ort-{kind}-{method}-{reduced}.onnx"
        if made[name].exists():
            continue
        print(name, flush=True)
        extra: dict[str, Any] = {"ActivationSymmetric": kind == "s8s8"}
        if method == "Percentile":
            extra["CalibPercentile"] = 99.99
        quantize_static(
            str(prepared), str(made[name]), reader(calibration), per_channel=True, reduce_range=reduced,
            activation_type=QuantType.QUInt8 if kind == "u8s8" else QuantType.QInt8, weight_type=QuantType.QInt8,
            calibrate_method=getattr(CalibrationMethod, method), extra_options=extra,
        )  # fmt: skip
    import nncf

    saturates = reduced_range("openvino", "auto")
    fix = nncf.quantization.advanced_parameters.OverflowFix
    for preset, fast, reduced in (
        ("PERFORMANCE", True, saturates), ("MIXED", True, saturates), ("MIXED", False, saturates),
        *([("MIXED", True, False)] if saturates else []),
    ):  # fmt: skip
        name = f"NNCF {preset.lower()}{'' if fast else ', accurate bias correction'}{WHOLE * (saturates - reduced)}"
        made[name] = folder / f"nncf-{preset}-{fast}-{reduced}.xml"
        if made[name].exists():
            continue
        print(name, flush=True)
        model = nncf.quantize(
            openvino.Core().read_model(fp32),
            nncf.Dataset([i for b in calibration for i in np.split(b, len(b))]),
            preset=getattr(nncf.QuantizationPreset, preset),
            subset_size=sum(map(len, calibration)),
            fast_bias_correction=fast,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=fix.ENABLE if reduced else fix.DISABLE
            ),
        )
        openvino.save_model(model, str(made[name]), compress_to_fp16=False)
    return made


def peers_for_tensorrt(fp32: Path, calibration: list[np.ndarray], folder: Path) -> dict[str, Path]:
    """Quantize with ONNX Runtime's tool as TensorRT takes it.

    Signed and symmetric, float biases, and Q/DQ pairs only before convolutions, matrix products and sums: NVIDIA
    TensorRT documentation 10.x, "Q/DQ layer-placement recommendations".
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    made, prepared = {}, prepared_for_ort(fp32, folder)
    read = ["Conv", "Gemm", "MatMul", "Add", "GlobalAveragePool"]
    for method in ("MinMax", "Percentile", "Entropy"):
        name = f"ORT quantize_static for TensorRT {method}"
        made[name] = folder / f"ort-tensorrt-{method}.onnx"
        if made[name].exists():
            continue
        print(name, flush=True)
        extra: dict[str, Any] = {
            "ActivationSymmetric": True, "QuantizeBias": False, "AddQDQPairToWeight": True,
            "OpTypesToExcludeOutputQuantization": read,
        }  # fmt: skip
        if method == "Percentile":
            extra["CalibPercentile"] = 99.99
        quantize_static(
            str(prepared), str(made[name]), reader(calibration), per_channel=True, op_types_to_quantize=read,
            activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
            calibrate_method=getattr(CalibrationMethod, method), extra_options=extra,
        )  # fmt: skip
    return made


def prepared_for_ort(fp32: Path, folder: Path) -> Path:
    """Return the graph as ONNX Runtime's tool wants it."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    made, source = (folder / "prepared.onnx").resolve(), fp32.resolve()
    if not made.exists():
        with contextlib.chdir(folder):  # where it fails it leaves what it was working on in the current folder
            quant_pre_process(str(source), str(made))
    return made


def reader(calibration: list[np.ndarray]) -> Any:
    """Return the calibration images as ONNX Runtime's tool reads them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            found = next(self.left, None)
            return None if found is None else {"images": found}

    return Reader()


def kept(path: Path) -> Artifact | None:
    """Return what an earlier run with the same --work made."""
    return Artifact.load(path) if path.exists() else None


def margins(logits: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return by how much the reference's first class is ahead of its second, float32 (n,)."""
    order = np.argsort(reference, axis=1)
    rows = np.arange(len(logits))
    difference: np.ndarray = logits[rows, order[:, -1]] - logits[rows, order[:, -2]]
    return difference


def difference(logits: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    """Return the share of labels that differ, its 95 % interval, and how far the logits are apart, dB."""
    changed = int((logits.argmax(1) != reference.argmax(1)).sum())
    error = max(np.square(logits - reference).sum(), 1e-9)
    return {
        "flips": round(changed / len(logits), 4),
        "flips_95": [round(bound, 4) for bound in wilson(changed, len(logits))],
        "sqnr_db": round(float(10 * np.log10(np.square(reference).sum() / error)), 2),
    }


def turn(opened: Callable[[], Call], inputs: np.ndarray) -> float:
    """Open a network anew and return its median time, milliseconds.

    Where a session's memory comes to lie makes it faster or slower by a tenth and more for as long as it lives.
    """
    call = opened()
    times = []
    for _ in range(WARM + (20 if len(inputs) == 1 else 3)):
        started = time.perf_counter()
        call(inputs)
        times.append(1e3 * (time.perf_counter() - started))
    return float(np.median(times[WARM:]))


def latencies(
    openers: dict[tuple[str, str], Callable[[], Call]], images: np.ndarray, turns: int
) -> dict[tuple[str, str], dict[int, float]]:
    """Time all in turn, in another order each turn."""
    random = np.random.default_rng(0)
    found: dict[tuple[str, str], dict[int, list[float]]] = {key: {size: [] for size in BATCHES} for key in openers}
    for _ in range(turns):
        for i in random.permutation(len(openers)):
            key, opened = list(openers.items())[i]
            for size in BATCHES:
                found[key][size].append(turn(opened, np.resize(images, (size, *images.shape[1:]))))
    return {key: {size: float(np.median(times)) for size, times in sizes.items()} for key, sizes in found.items()}


def margin_error(logits: np.ndarray, reference: np.ndarray) -> float:
    """Return how far the margin moves: root mean square, relative to the median margin."""
    own = margins(reference, reference)
    moved = margins(logits, reference) - own
    return round(float(np.sqrt(np.square(moved).mean()) / np.median(own)), 4)


def answers(call: Call, inputs: np.ndarray) -> np.ndarray:
    """Return a network's answers to any number of images, 32 at a time."""
    return np.concatenate([call(inputs[i : i + 32]) for i in range(0, len(inputs), 32)])


def side_by_side(
    sides: Mapping[str, Callable[[], Call]], inputs: np.ndarray, turns: int = FINAL_TURNS
) -> dict[str, dict[str, Any]]:
    """Time some networks and a peer's in turn, in another order each turn.

    Args:
        sides: Name -> opens a network anew; one is named peer.
        inputs: A batch.
        turns: How often each is opened.

    Returns:
        Each other's share of the peer's time: the median over the turns, and the 95 % interval of the median
        (order statistics).
    """
    random = np.random.default_rng(0)
    times = [{side: turn(sides[side], inputs) for side in random.permutation(list(sides))} for _ in range(turns)]
    edge = round(turns / 2 - 0.98 * turns**0.5)
    found = {}
    for side in sides.keys() - {"peer"}:
        shares = sorted(taken[side] / taken["peer"] for taken in times)
        found[side] = {
            "share": round(float(np.median(shares)), 3),
            "share_95": [round(shares[edge - 1], 3), round(shares[-edge], 3)],
        }
    return found


def linked(root: Path, train: tuple[str, ...], val: tuple[str, ...], out: Path) -> Path:
    """Make a folder of links to some images, as its train part, and to the val part."""
    for part, files in (("train", train), ("val", val)):
        for file in files:
            link = out / file if Path(file).parts[0] == part else out / part / file
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to((root / file).resolve())
    return out


def changed(row: dict[str, Any]) -> str:
    """Return the share of labels that changed with its interval, and the margin error, as two cells."""
    return f"{100 * row['flips']:.1f} % {interval(row)}| {100 * row['margin_error']:.0f} %"


def interval(row: dict[str, Any]) -> str:
    low, high = (100 * bound for bound in row["flips_95"])
    return f"({low:.1f} to {high:.1f}) "
