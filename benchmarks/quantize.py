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
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from int8_judge import (
    BATCHES,
    FINAL_TURNS,
    RESULTS,
    RUNTIMES,
    WHOLE,
    Call,
    Made,
    answers,
    difference,
    interval,
    kept,
    latencies,
    linked,
    margin_error,
    ort,
    peers,
    side_by_side,
)
from pretrained import unpacked

import tlopt
from tlopt.artifact import Artifact
from tlopt.backends import reduced_range
from tlopt.cards.card import plain
from tlopt.environment import cores, processor, versions
from tlopt.images import batches, scan
from tlopt.publishing import write_whole

WEIGHTS = Path("../shared/weights")
MODELS = {
    "tf_efficientnet_lite0": ("pip:efficientnet_lite0", ""),
    "mobilenetv2_100": ("timm:mobilenetv2_100?pad_type=same", "mobilenetv2_100.coral"),
    "resnet50": ("timm:resnet50", "resnet50.pqf"),
    "resnet18": ("timm:resnet18", "resnet18.ktb"),
}
CHOOSING = 512  # photos that --max-drop chooses by, where the network was not trained on any


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
        options |= {
            "weights": unpacked(file, WEIGHTS, folder), "mean": tuple(about["mean"]), "std": tuple(about["std"]),
            "image_size": about["input_size"][-1], "crop_ratio": about["crop_pct"],
            "interpolation": about["interpolation"],
        }  # fmt: skip
    return tlopt.export(tlopt.import_model(None, folder / "torch", **options), folder / "fp32")


DEFAULTS = ("tlopt --for onnxruntime", "tlopt --for openvino")
FIRST = ", first block float"


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
        quantized = found.card.quantized
        assert quantized is not None
        sensitivity = plain(quantized.sensitivity) or {}
        made[name] = Made(found.payload(".onnx"), found.card.lineage[-1].seconds, sensitivity)
        print(name, made[name].seconds, plain(quantized.measured), sensitivity, flush=True)
    if tuned:
        trained = kept(folder / "qat") or tlopt.qat(tuned, folder / "qat", epochs=2, lr=2e-4)
        exported = kept(folder / "qat-fp32") or tlopt.export(trained, folder / "qat-fp32")
        found = kept(folder / "qat-int8") or tlopt.quantize(exported, folder / "qat-int8")
        seconds = trained.card.lineage[-1].seconds + found.card.lineage[-1].seconds
        made["tlopt --for onnxruntime, tlopt qat"] = Made(found.payload(".onnx"), seconds)
    return made


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
    found = {}
    for size in BATCHES:
        best = {
            side: min((row["latency_ms"][str(size)], row["name"], row["runtime"]) for row in them)[1:]
            for side, them in sides.items()
        }
        inputs = np.resize(images, (size, *images.shape[1:]))
        shares = side_by_side({side: openers[key] for side, key in best.items()}, inputs)
        found[str(size)] = [
            {"tlopt": ", ".join(best[side]), "peer": ", ".join(best["peer"]), **shares[side]}
            for side in ("default", "first")
        ]
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
        reference = answers(ort(fp32.payload(".onnx")), test)
        files = {"fp32": Made(fp32.payload(".onnx"))}
        if not given.without_peers:
            files |= {name: Made(path) for name, path in peers(fp32.payload(".onnx"), calibration, folder).items()}
        # tlopt takes the same images: a folder that holds only them, and the val part as the stage's own judge.
        own, wider = (
            linked(given.images, some.files, parts["val"].files, folder / f"images-{len(some)}")
            for some in (chosen, known)
        )
        files |= ours(fp32, own, None if given.tuned else wider, given.samples, folder, given.tuned)
        rows: list[dict[str, Any]] = []
        openers: dict[tuple[str, str], Callable[[], Call]] = {}
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
                logits = answers(call, test)
                rows.append({
                    "name": name, "runtime": runtime, "seconds": round(made.seconds, 1),
                    **difference(logits, reference),
                    "margin_error": margin_error(logits, reference),
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


if __name__ == "__main__":
    main()
