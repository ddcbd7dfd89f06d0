"""Compare int8 quantization with ONNX Runtime's quantize_static and NNCF, on the same calibration images.

    python benchmarks/quantize.py --model tf_efficientnet_lite0 --images ../shared/data/clothing10
    python benchmarks/quantize.py --model resnet18-clothing10 --tuned RUN --images ../shared/data/clothing10

Needs `python -m pip install nncf` and, for all models but EfficientNet-Lite0, the weights in
../shared/weights. The networks keep their ImageNet heads, unless --tuned names a fine-tuned torch artifact of
the images' own classes; --model then only names the results. What is counted is how often the label of a photo
differs from fp32's, so that the photos need not show ImageNet's classes. That is a noisy count: its 95 % interval
(Wilson) stands beside it, and how far int8 moves the margin between fp32's first and second class (root mean square,
relative to the median margin), which every photo tells. Calibration takes images of the training part, --max-drop
others of it. All other photos judge, or, where the network was trained on them, the test part. Latency: all rows take
turns, each opened anew, since where a session's memory comes to lie makes it faster or slower for its whole life.

Where integer kernels saturate on this processor, the peers are given what they have against it, `reduce_range` and
NNCF's overflow fix. The rows "whole range" show what comes of leaving that out, and, run by "exact", what a processor
with VNNI would make of it: ONNX Runtime in float between the Q/DQ pairs, not timed. Each network is also quantized with
--max-drop, which takes 0.5 points of a fine-tuned network's accuracy, or 3 % of the labels of one that knows other
classes, and with its first block in float (--float-blocks first). A fine-tuned one also goes through two epochs of
quantization-aware training.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openvino

import tlopt
from tlopt.artifact import Artifact
from tlopt.backends import reduced_range
from tlopt.cards.card import plain
from tlopt.environment import cores, processor, versions
from tlopt.images import batches, scan
from tlopt.publishing import write_whole
from tlopt.sessions import open_session
from tlopt.statistics import wilson

RESULTS = Path(__file__).parent / "results"
WEIGHTS = Path("../shared/weights")
MODELS = {
    "tf_efficientnet_lite0": ("pip:efficientnet_lite0", ""),
    "mobilenetv2_100": ("timm:mobilenetv2_100?pad_type=same", "mobilenetv2_100.coral"),
    "resnet50": ("timm:resnet50", "resnet50.pqf"),
    "resnet18": ("timm:resnet18", "resnet18.ktb"),
}
BATCHES = (1, 32)
CHOOSING = 512  # photos that --max-drop chooses by, where the network was not trained on any
Call = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Made:
    """A quantized network, the seconds that it took, and what --max-drop said of its blocks."""

    path: Path
    seconds: float = 0.0
    sensitivity: dict[str, Any] = field(default_factory=dict)


def source(name: str, tuned: Path | None, folder: Path) -> Artifact:
    """Export a model with its ImageNet weights and classifier, or a fine-tuned one, to ONNX."""
    if tuned:
        return tlopt.export(tuned, folder / "fp32")
    model, file = MODELS[name]
    classes = folder / "classes.txt"
    write_whole(classes, "\n".join(f"class {i:03}" for i in range(1000)))
    options: dict[str, Any] = {"model": model, "classes": classes}
    if file:
        about = json.loads((WEIGHTS / f"{file}.json").read_text())
        weights = folder / f"{file}.safetensors"
        weights.write_bytes(gzip.decompress((WEIGHTS / f"{file}.safetensors.gz").read_bytes()))
        options |= {
            "weights": weights, "mean": tuple(about["mean"]), "std": tuple(about["std"]),
            "image_size": about["input_size"][-1], "crop_ratio": about["crop_pct"],
            "interpolation": about["interpolation"],
        }  # fmt: skip
    return tlopt.export(tlopt.import_model(None, folder / "torch", **options), folder / "fp32")


def ort(path: Path, *, integers: bool = True) -> Call:
    session = open_session(path, entries={} if integers else {"session.disable_quant_qdq": "1"})
    entry = session.get_inputs()[0].name
    return lambda inputs: session.run(None, {entry: inputs})[0]


def ov(path: Path) -> Call:
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": cores(), "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(path), "CPU", hints)
    return lambda inputs: compiled(inputs)[0]


RUNTIMES = {"onnxruntime": ort, "openvino": ov, "exact": functools.partial(ort, integers=False)}
WHOLE = ", whole range"
DEFAULTS = ("tlopt --for onnxruntime", "tlopt --for openvino")
FIRST = ", first block float"
WARM, FINAL_TURNS = 3, 21


def peers(fp32: Path, calibration: list[np.ndarray], folder: Path) -> dict[str, Path]:
    """Quantize with the other tools at the settings that do them justice."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            found = next(self.left, None)
            return None if found is None else {"images": found}

    made = {}
    if not (folder / "prepared.onnx").exists():
        quant_pre_process(str(fp32), str(folder / "prepared.onnx"))
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
            str(folder / "prepared.onnx"), str(made[name]), Reader(), per_channel=True, reduce_range=reduced,
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


def kept(path: Path) -> Artifact | None:
    """Return what an earlier run with the same --work made."""
    return Artifact.load(path) if path.exists() else None


def ours(
    fp32: Artifact, images: Path, wider: Path | None, samples: int, folder: Path, tuned: Path | None
) -> dict[str, Made]:
    """Quantize with tlopt: the default for either runtime, and what each method adds.

    Args:
        fp32: The float network.
        images: Those that all are calibrated on.
        wider: These and others, for --max-drop to choose by; None for the network's own training photos.
        samples: How many to calibrate on.
        folder: Where to.
        tuned: The torch artifact that was fine-tuned.
    """
    variants: dict[str, dict[str, Any]] = {
        "tlopt --for onnxruntime": {},
        "tlopt --for openvino": {"for": "openvino"},
        "tlopt, nearest rounding": {"rounding": "nearest"},
        "tlopt, nearest rounding, no bias correction": {"rounding": "nearest", "bias_correction": False},
    }
    for runtime in ("onnxruntime", "openvino"):
        if reduced_range(runtime, "auto"):
            variants[f"tlopt --for {runtime}{WHOLE}"] = {"for": runtime, "reduce_range": "off"}
    limit = 0.005 if tuned else 0.03
    for runtime in ("onnxruntime", "openvino") if tuned else ("onnxruntime",):  # the search takes long
        variants[f"tlopt --for {runtime} --max-drop {limit}"] = {"for": runtime, "max_drop": limit, "images": wider}
    for name in DEFAULTS:
        variants[f"{name}{FIRST}"] = {**variants[name], "float_blocks": ("first",)}
        if f"{name}{WHOLE}" in variants:
            variants[f"{name}{FIRST}{WHOLE}"] = {**variants[f"{name}{WHOLE}"], "float_blocks": ("first",)}
    made = {}
    for i, (name, options) in enumerate(variants.items()):
        settings = {"images": images, "samples": samples, **options}
        found = kept(folder / f"tlopt-{i}") or tlopt.quantize(fp32, folder / f"tlopt-{i}", **settings)
        sensitivity = plain(found.card.onnx.quantized.sensitivity) or {}
        made[name] = Made(found.payload(".onnx"), found.card.lineage[-1].seconds, sensitivity)
        print(name, made[name].seconds, plain(found.card.onnx.quantized.measured), sensitivity, flush=True)
    if tuned:
        trained = kept(folder / "qat") or tlopt.qat(tuned, folder / "qat", epochs=2, lr=2e-4)
        exported = kept(folder / "qat-fp32") or tlopt.export(trained, folder / "qat-fp32")
        found = kept(folder / "qat-int8") or tlopt.quantize(exported, folder / "qat-int8")
        seconds = trained.card.lineage[-1].seconds + found.card.lineage[-1].seconds
        made["tlopt --for onnxruntime, tlopt qat"] = Made(found.payload(".onnx"), seconds)
    return made


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


def finals(
    openers: dict[tuple[str, str], Callable[[], Call]], images: np.ndarray, rows: list[dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Time tlopt's fastest rows and the peers' fastest anew, side by side: the fastest of many is so by luck, too.

    Rows of a range that the kernels here do not bear do not compete, nor do tlopt's other than the defaults and
    those with the first block in float.

    Returns:
        Batch size -> for the default and for the first block in float: its row and the peer's, and the median over
        `FINAL_TURNS` turns of its share of the peer's time, with the 95 % interval of the median (order statistics).
    """
    sides = {
        "default": [row for row in rows if row["name"] in DEFAULTS],
        "first": [row for row in rows if row["name"] in [f"{name}{FIRST}" for name in DEFAULTS]],
        "peer": [row for row in rows if row["name"].startswith(("ORT", "NNCF")) and WHOLE not in row["name"]],
    }
    random = np.random.default_rng(0)
    found = {}
    for size in BATCHES:
        best = {
            side: min((row["latency_ms"][str(size)], row["name"], row["runtime"]) for row in them)[1:]
            for side, them in sides.items()
        }
        inputs = np.resize(images, (size, *images.shape[1:]))
        times: list[dict[str, float]] = []
        for _ in range(FINAL_TURNS):
            times.append({side: turn(openers[best[side]], inputs) for side in random.permutation(list(best))})
        edge = round(FINAL_TURNS / 2 - 0.98 * FINAL_TURNS**0.5)
        found[str(size)] = []
        for side in ("default", "first"):
            shares = sorted(taken[side] / taken["peer"] for taken in times)
            found[str(size)].append({
                "tlopt": ", ".join(best[side]),
                "peer": ", ".join(best["peer"]),
                "share": round(float(np.median(shares)), 3),
                "share_95": [round(shares[edge - 1], 3), round(shares[-edge], 3)],
            })  # fmt: skip
    return found


def main() -> None:
    """Measure one model and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help=f"{', '.join(MODELS)}, or any name with --tuned")
    parser.add_argument("--tuned", type=Path, help="fine-tuned artifact")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7, help="turns of the latency measurement")
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--label", default="", help="end of the results' file names, such as the processor's")
    parser.add_argument("--work", type=Path, help="folder that keeps what was made, for another run")
    given = parser.parse_args()
    if not given.tuned and given.model not in MODELS:
        parser.error(f"--model must be one of {', '.join(MODELS)}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.work or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        fp32 = kept(folder / "fp32") or source(given.model, given.tuned, folder)
        parts = scan(given.images).split(val=0.1, test=0.1, seed=0)
        preprocess = fp32.card.preprocess
        random = np.random.default_rng(0)
        shuffled = random.permutation(len(parts["train"]))
        chosen = parts["train"].select(np.sort(shuffled[: given.samples]))
        known = chosen if given.tuned else parts["train"].select(np.sort(shuffled[: given.samples + CHOOSING]))
        calibration = [b.inputs for b in batches(chosen, preprocess, batch=8)]
        others = parts["test"] if given.tuned else scan(given.images)
        others = others.select(np.flatnonzero(~np.isin(others.files, known.files)))
        judged = list(batches(others, preprocess, batch=64))
        test, labels = np.concatenate([b.inputs for b in judged]), np.concatenate([b.labels for b in judged])
        reference_call = ort(fp32.payload(".onnx"))
        reference = np.concatenate([reference_call(test[i : i + 32]) for i in range(0, len(test), 32)])
        files = {"fp32": Made(fp32.payload(".onnx"))}
        if not given.without_peers:
            files |= {name: Made(path) for name, path in peers(fp32.payload(".onnx"), calibration, folder).items()}
        # tlopt takes the same images: a folder that holds only them, and the val part as the stage's own judge.
        own, wider = (
            linked(given.images, some.files, parts["val"].files, folder / f"images-{len(some)}")
            for some in (chosen, known)
        )
        files |= ours(fp32, own, None if given.tuned else wider, given.samples, folder, given.tuned)
        rows, openers = [], {}
        for name, made in files.items():
            path = made.path
            for runtime, opened in RUNTIMES.items():
                if path.suffix == ".xml" and runtime != "openvino":
                    continue
                if runtime == "exact" and not name.endswith(WHOLE):
                    continue
                call = opened(path)
                if runtime != "exact":
                    openers[name, runtime] = functools.partial(opened, path)
                logits = np.concatenate([call(test[i : i + 32]) for i in range(0, len(test), 32)])
                moved = margins(logits, reference) - margins(reference, reference)
                typical = np.median(margins(reference, reference))
                rows.append({
                    "name": name, "runtime": runtime, "seconds": round(made.seconds, 1),
                    **difference(logits, reference),
                    "margin_error": round(float(np.sqrt(np.square(moved).mean()) / typical), 4),
                    **({"accuracy": round(float((logits.argmax(1) == labels).mean()), 4)} if given.tuned else {}),
                    **({"sensitivity": made.sensitivity} if made.sensitivity else {}),
                })  # fmt: skip
                print({key: value for key, value in rows[-1].items() if key != "sensitivity"}, flush=True)
        print("timing", flush=True)
        timed = latencies(openers, test, given.rounds)
        for row in rows:
            found = timed.get((row["name"], row["runtime"]), {})
            row["latency_ms"] = {str(size): round(ms, 2) for size, ms in found.items()}
        last = {} if given.without_peers else finals(openers, test, rows)
    import nncf

    command = f"python benchmarks/quantize.py --model {given.model} --images {given.images} --samples {given.samples}"
    if given.tuned:
        command += " --tuned RUN"
    if given.rounds != parser.get_default("rounds"):
        command += f" --rounds {given.rounds}"
    if given.label:
        command += f" --label {given.label}"
    result = {
        "command": command,
        "model": given.model, "images": str(given.images), "judged": len(test), "calibrated": len(chosen),
        "processor": processor(), "threads": cores(), "versions": {**versions(), "nncf": nncf.__version__},
        "timing": "median over the turns of each turn's median; opened anew each turn, after 3 calls of warm-up",
        "rounds": given.rounds, "finals": last, "rows": rows,
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    name = f"quantize-{given.model}{'-' * bool(given.label)}{given.label}"
    write_whole(RESULTS / f"{name}.json", json.dumps(result, indent=1) + "\n")
    write_whole(RESULTS / f"{name}.md", markdown(result))


def linked(root: Path, train: tuple[str, ...], val: tuple[str, ...], out: Path) -> Path:
    """Make a folder of links to some images, as its train part, and to the val part."""
    for part, files in (("train", train), ("val", val)):
        for file in files:
            link = out / file if Path(file).parts[0] == part else out / part / file
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to((root / file).resolve())
    return out


def markdown(result: dict[str, Any]) -> str:
    """Return the rows as a table, with the conditions."""
    tuned = "accuracy" in result["rows"][0]
    lines = [
        f"# int8 quantization of {result['model']}",
        "",
        f"`{result['command']}`",
        "",
        f"{result['processor']}, {result['threads']} threads; {result['calibrated']} images to calibrate, "
        f"{result['judged']} others to judge; " + ", ".join(f"{k} {v}" for k, v in result["versions"].items()) + ".",
        "",
        f"Time: {result['timing']}; {result['rounds']} turns.",
        "",
        f"| quantized by | run by | labels changed | margin error | SQNR dB |{' accuracy |' if tuned else ''} "
        + " | ".join(f"ms, batch {b}" for b in BATCHES)
        + " |",
        f"|---|---|--:|--:|--:|{'--:|' * tuned}" + "--:|" * len(BATCHES),
    ]
    for row in result["rows"]:
        times = " | ".join(f"{row['latency_ms'][str(b)]:.2f}" if row["latency_ms"] else "" for b in BATCHES)
        sqnr = "" if row["name"] == "fp32" else f"{row['sqnr_db']:.1f}"
        accuracy = f" {row['accuracy']:.3f} |" if tuned else ""
        lines.append(
            f"| {row['name']} | {row['runtime']} | {100 * row['flips']:.1f} % {interval(row)}"
            f"| {100 * row['margin_error']:.0f} % | {sqnr} |{accuracy} {times} |"
        )
    for size, last in result["finals"].items():
        lines += ["", f"Batch {size}, the fastest anew in {FINAL_TURNS} turns:", ""]
        for pair in last:
            low, high = pair["share_95"]
            lines.append(
                f"- {pair['tlopt']} takes {pair['share']:.2f} ({low:.2f} to {high:.2f}) of the time of {pair['peer']}."
            )
    for row in result["rows"]:
        if "sensitivity" in row and row["runtime"] in row["name"]:
            lines += ["", *_trade_off(row)]
    return "\n".join(lines) + "\n"


def _trade_off(row: dict[str, Any]) -> list[str]:
    """Return what each number of float blocks was found to do, on the photos that chose them."""
    found = row["sensitivity"]
    kept = ", ".join(found["float_blocks"]) or "none"
    lines = [
        f"## {row['name']}",
        "",
        f"Chosen by {found['images']} photos; drop of {found['drop_of']}. Float blocks kept: {kept}"
        f"{'' if found['met'] else ' (the limit was not met)'}. The best of each number of float blocks:",
        "",
        "| float blocks | drop | labels changed | SQNR dB | " + " | ".join(f"ms, batch {b}" for b in BATCHES) + " |",
        "|--:|--:|--:|--:|" + "--:|" * len(BATCHES),
    ]
    for trial in found["trade_off"]:
        times = " | ".join(f"{trial['latency_ms'][str(b)]:.2f}" for b in BATCHES)
        lines.append(
            f"| {len(trial['float_blocks'])} | {trial['drop']:.4f} | {100 * trial['flips']:.1f} % "
            f"| {trial['snr_db']:.1f} | {times} |"
        )
    return lines


def interval(row: dict[str, Any]) -> str:
    low, high = (100 * bound for bound in row["flips_95"])
    return f"({low:.1f} to {high:.1f}) "


if __name__ == "__main__":
    main()
