"""Take the networks that are hard in int8 to fp8, and their weights to int4, in simulation; and int8 by its parts.

    python benchmarks/hard_formats.py --images ../shared/data/clothing10 --work runs/benchmark-hard

The networks are those of hard_networks.py, trained in --work. All calibrate on the same 128 training images, and are
judged as in hard_int8.py: by the labels that differ from fp32's on images that training did not see.

Everything is simulated on a processor: in float between the Q/DQ pairs. fp8 is what `tlopt quantize --precision fp8
--for tensorrt` writes. TensorRT has kernels for it from sm89 on. Its peer is ONNX Runtime's tool with E4M3 for weights
and activations. int4 is of weights alone, one scale for each output channel, of all convolutions and matrix products:
TensorRT takes int4 weights in matrix products only, so this says what it would cost and is no choice of tlopt's. Its
peer rounds each weight to the nearest number of the scale that spans the channel. int8 is for ONNX Runtime: whole, with
float activations, and with float weights. Float weights are what no choice of the integers can come nearer to.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hard_int8 import SAMPLES, Unseen
from hard_networks import EPOCHS, NETWORKS, SIZE, trained
from int8_judge import RESULTS, RUNTIMES, answers, changed, linked, prepared_for_ort, reader
from onnx import numpy_helper

import tlopt
from tlopt.artifact import Artifact
from tlopt.backends import reduced_range
from tlopt.environment import cores, processor, versions
from tlopt.graphs.view import View
from tlopt.images import batches, scan
from tlopt.publishing import write_whole
from tlopt.quantization.calibration.moments import gather, supported
from tlopt.quantization.float_graph import float_graph
from tlopt.quantization.int8 import Scheme, calibrate
from tlopt.quantization.placement import place
from tlopt.quantization.qdq import insert
from tlopt.quantization.rounding import round_weight
from tlopt.quantization.weight_grids import Levels, channel_scale

FILE = RESULTS / "hard-formats.json"
INT4 = Levels(limit=7)


@dataclass(frozen=True)
class Exact:
    """An input that is not rounded."""

    scale: float = 0.0

    def rounded(self, values: np.ndarray) -> np.ndarray:
        """Return the values."""
        return values


def in_fp8(fp32: Artifact, images: Path, out: Path, **settings: Any) -> Path:
    """Quantize with tlopt for TensorRT."""
    made = tlopt.quantize(
        fp32, out, images=images, samples=SAMPLES, precision="fp8", for_="tensorrt", force=True, **settings
    )
    return made.payload(".onnx")


def peer_in_fp8(file: Path, calibration: list[np.ndarray], folder: Path, *, per_channel: bool) -> Path:
    """Quantize with ONNX Runtime's tool."""
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    made = folder / f"ort-fp8-{per_channel}.onnx"
    read = ["Conv", "Gemm", "MatMul", "Add", "GlobalAveragePool"]
    kind = QuantType.QFLOAT8E4M3FN
    extra = {"QuantizeBias": False, "OpTypesToExcludeOutputQuantization": read}
    quantize_static(
        str(prepared_for_ort(file, folder)), str(made), reader(calibration), per_channel=per_channel,
        op_types_to_quantize=read, activation_type=kind, weight_type=kind,
        calibrate_method=CalibrationMethod.Distribution, extra_options=extra,
    )  # fmt: skip
    return made


def in_int4(file: Path, calibration: list[np.ndarray], out: Path, *, nearest: bool) -> Path:
    """Write the graph with weights that 4-bit integers stand for, in float."""
    view = View(onnx.load(file))
    chosen = [node for node in view.nodes if node.name in place(view, "tensorrt").weights and supported(view, node)]
    inputs = {node.input[0]: Exact() for node in chosen}
    moments = {} if nearest else gather(view, chosen, calibration, inputs, seed=0)  # type: ignore[arg-type]
    found = {}
    for node in chosen:
        weight = view.constant(node.input[1])
        assert weight is not None
        if nearest:
            across = node.op_type == "MatMul"
            scale = channel_scale(weight.T if across else weight, 0, limit=INT4.limit)
            wide = scale.reshape(1, -1) if across else scale.reshape(-1, *[1] * (weight.ndim - 1))
            found[node.name] = INT4.nearest(weight / wide) * wide
        else:
            made = round_weight(node, weight, moments[node.name], noise=0.0, levels=INT4, shifted=False)
            found[node.name] = made.real()
    return _with_weights(view, found, out)


def int8_by_parts(fp32: Artifact, calibration: list[np.ndarray], out: Path, *, part: str) -> Path:
    """Write the graph with weights, activations or both in int8."""
    view = float_graph(fp32, precision="int8", runtime="onnxruntime", folded=True)
    # Without the rounding of activations there is no mean error of theirs that a bias could make up for.
    scheme = Scheme(runtime="onnxruntime", bias_correction=part == "both", reduced=reduced_range("onnxruntime", "auto"))
    calibrated = calibrate(view, scheme, calibration)
    if part == "activations":
        placement = copy.copy(calibrated.placement)
        placement.weights = []
        onnx.save(insert(view, placement, calibrated.scales()), out)
        return out
    rounded = calibrated.rounded(lambda: calibration)
    if part == "both":
        onnx.save(rounded.graph(), out)
        return out
    return _with_weights(view, {name: weight.real() for name, weight in rounded.weights.items()}, out)


def _with_weights(view: View, weights: Mapping[str, np.ndarray], out: Path) -> Path:
    model = onnx.ModelProto()
    model.CopyFrom(view.model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in view.nodes:
        if node.name in weights:
            name = node.input[1]
            constants[name].CopyFrom(numpy_helper.from_array(weights[node.name].astype(np.float32), name))
    onnx.save(model, out)
    return out


def rows(name: str, images: Path, work: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a network."""
    network, out = trained(name, images, work), work / name / "formats"
    fp32 = tlopt.export(network, out / "fp32", force=True)
    file = fp32.payload(".onnx")
    parts = scan(images).split(val=0.1, test=0.1, seed=0)
    shuffled = np.random.default_rng(0).permutation(len(parts["train"]))
    few = parts["train"].select(np.sort(shuffled[:SAMPLES]))
    own = linked(images, few.files, parts["val"].files, out / "images")
    calibration = [found.inputs for found in batches(few, fp32.card.preprocess, batch=8)]
    unseen = Unseen.of(fp32, parts)
    ways: dict[tuple[str, str], Callable[[], Path]] = {
        ("fp8", "tlopt"): lambda: in_fp8(fp32, own, out / "fp8"),
        ("fp8", "tlopt --rounding nearest --no-bias-correction"): lambda: in_fp8(
            fp32, own, out / "fp8-nearest", rounding="nearest", bias_correction=False
        ),
        ("fp8", "ORT quantize_static"): lambda: peer_in_fp8(file, calibration, out, per_channel=False),
        ("fp8", "ORT quantize_static, per channel"): lambda: peer_in_fp8(file, calibration, out, per_channel=True),
        ("int4 weights", "GPTQ"): lambda: in_int4(file, calibration, out / "int4.onnx", nearest=False),
        ("int4 weights", "nearest"): lambda: in_int4(file, calibration, out / "int4-nearest.onnx", nearest=True),
    }
    for part in ("both", "weights", "activations"):
        ways["int8", part] = functools.partial(int8_by_parts, fp32, calibration, out / f"int8-{part}.onnx", part=part)
    for (kind, way), make in ways.items():
        try:
            logits = answers(RUNTIMES["exact"](make()), unseen.inputs)
        except Exception as error:  # noqa: BLE001 - a peer's tool may refuse a network: that is told
            print(name, kind, way, repr(error)[:200], flush=True)
            yield {"network": name, "format": kind, "way": way, "problem": f"{type(error).__name__}: {error}"[:200]}
            continue
        yield {"network": name, "format": kind, "way": way, **unseen.judged(logits)}


def table(result: dict[str, Any]) -> str:
    """Return a row for each network, format and way."""
    lines = [
        "# fp8, and int4 weights, in simulation, and int8 by its parts", "",
        f"{result['processor']}, {result['cores']} thread(s); {result['size']} px; {result['epochs']} epochs of "
        f"training; onnxruntime {result['versions']['onnxruntime']}; `{result['command']}`. No GPU: everything is "
        "computed in float between the roundings.", "",
        "| network | format | by | labels changed | margin error | SQNR dB | accuracy | fp32 |", f"{'|---' * 8}|",
    ]  # fmt: skip
    for row in result["rows"]:
        if "problem" in row:
            lines.append(f"| {row['network']} | {row['format']} | {row['way']} | {row['problem']} | | | | |")
            continue
        lines.append(
            f"| {row['network']} | {row['format']} | {row['way']} | {changed(row)} | {row['sqnr_db']:.1f} | "
            f"{row['accuracy']:.3f} | {row['fp32_accuracy']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Make the rows of the networks that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of images with train, val and test parts")
    parser.add_argument("--work", type=Path, required=True, help="folder of the trained networks")
    parser.add_argument("--networks", default=",".join(NETWORKS), help=f"some of {', '.join(NETWORKS)}")
    given = parser.parse_args()
    result: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {"rows": []}
    command = f"python benchmarks/hard_formats.py --images {given.images} --work WORK"
    result |= {"command": command, "processor": processor(), "cores": cores(), "versions": versions(),
               "size": SIZE, "epochs": EPOCHS, "calibrated": SAMPLES}  # fmt: skip
    for name in given.networks.split(","):
        if any(row["network"] == name for row in result["rows"]):
            continue
        result["rows"] += rows(name, given.images, given.work)
        write_whole(FILE, json.dumps(result, indent=1) + "\n")
        write_whole(FILE.with_suffix(".md"), table(result))
    print(table(result))


if __name__ == "__main__":
    main()
