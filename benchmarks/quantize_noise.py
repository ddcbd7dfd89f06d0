"""How far an int8 network is from itself: the labels that change when its input moves by less than it can tell apart.

    python benchmarks/quantize_noise.py --images ../shared/data/clothing10

Rounding to 8 bits turns a difference far below one step into a step here and there, and the layers after it pass that
on. Each network is compared with itself on the same photos, disturbed by normal noise of an eighth of the input's step
(standard deviation), in float and in int8. Two answers that are each off by noise of their own differ by √2 times as
much as one of them from the truth: about 0.7 of the labels that int8 changes in its own answers would change if its
scales and weights were perfect, and only fewer roundings, such as float blocks, can take that away: the rows with the
first block in float show how much. They also hold where preprocessing puts each pixel on a level of the rounded input
(EfficientNet-Lite0), which rounds such noise away at once. All in exact arithmetic, weights of the whole int8 range.
Needs the weights in ../shared/weights.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from int8_judge import RESULTS, Call, difference, interval, linked, ort
from quantize import MODELS, source

import tlopt
from tlopt.artifact import Artifact
from tlopt.environment import cores, processor, versions
from tlopt.graphs.view import View
from tlopt.images import ImageFolder, batches, scan
from tlopt.publishing import write_whole

SHARE = 1 / 8  # of the input's step


def main() -> None:
    """Measure each model and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--models", default="mobilenetv2_100,tf_efficientnet_lite0", help=", ".join(MODELS))
    parser.add_argument("--samples", type=int, default=128)
    given = parser.parse_args()
    models = given.models.split(",")
    if unknown := [name for name in models if name not in MODELS]:
        parser.error(f"unknown: {', '.join(unknown)}; --models takes {', '.join(MODELS)}")
    if not given.images.is_dir():
        parser.error(f"--images {given.images} is not a folder")
    everything = scan(given.images)
    if not 0 < given.samples < len(everything):
        parser.error(f"--samples must leave some of the {len(everything)} photos to judge, got {given.samples}")
    shuffled = np.random.default_rng(0).permutation(len(everything))
    chosen, others = (everything.select(np.sort(part)) for part in np.split(shuffled, [given.samples]))
    rows: list[dict[str, Any]] = []
    for name in models:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            fp32 = source(name, None, folder)
            calibrating = linked(given.images, chosen.files, others.files[:1], folder / "images")
            int8, first = (
                tlopt.quantize(
                    fp32,
                    folder / out,
                    images=calibrating,
                    samples=given.samples,
                    reduce_range="off",
                    float_blocks=floats,
                )
                for out, floats in (("int8", ()), ("first", ("first",)))
            )
            found = compared(fp32, {"int8": int8, "int8, first block float": first}, others)
            rows += [{"model": name, "photos": len(others), **row} for row in found]
        print(*rows[-len(found) :], sep="\n", flush=True)
    result = {
        "command": f"python benchmarks/quantize_noise.py --images {given.images} --models {given.models} "
        f"--samples {given.samples}",
        "noise": f"normal, standard deviation {SHARE} of the input's step", "samples": given.samples,
        "processor": processor(), "threads": cores(), "versions": versions(), "rows": rows,
    }  # fmt: skip
    write_whole(RESULTS / "quantize-noise.json", json.dumps(result, indent=1) + "\n")
    write_whole(RESULTS / "quantize-noise.md", markdown(result))


def compared(fp32: Artifact, made: dict[str, Artifact], photos: ImageFolder) -> list[dict[str, Any]]:
    """Return how far each network is from float, and each from itself on disturbed photos.

    Args:
        fp32: The float network.
        made: Int8 networks by name; the first rounds its input, which all are disturbed by a part of the step of.
        photos: To judge by.
    """
    calls: dict[str, Call] = {"fp32": ort(fp32.payload(".onnx"))}
    calls |= {name: ort(artifact.payload(".onnx"), integers=False) for name, artifact in made.items()}
    random = np.random.default_rng(0)
    deviation = SHARE * input_step(next(iter(made.values())).payload(".onnx"))
    logits: dict[str, list[np.ndarray]] = {}
    for part in batches(photos, fp32.card.preprocess, batch=32):
        disturbed = part.inputs + deviation * random.standard_normal(part.inputs.shape, dtype=np.float32)
        for name, call in calls.items():
            logits.setdefault(name, []).append(call(part.inputs))
            logits.setdefault(f"{name} disturbed", []).append(call(disturbed))
    found = {name: np.concatenate(parts) for name, parts in logits.items()}
    pairs = [("fp32 disturbed", "fp32")]
    for name in made:
        pairs += [(name, "fp32"), (f"{name} disturbed", name)]
    return [{"compared": one, "with": other, **difference(found[one], found[other])} for one, other in pairs]


def input_step(path: Path) -> float:
    """Return the scale that the input of a quantized graph is rounded with."""
    view = View(onnx.load(path))
    node = next(n for n in view.nodes if n.op_type == "QuantizeLinear" and n.input[0] in view.inputs)
    scale = view.constant(node.input[1])
    assert scale is not None
    return float(scale)


def markdown(result: dict[str, Any]) -> str:
    """Return the rows as a table, with the conditions."""
    lines = [
        "# What int8 changes in its own answers",
        "",
        f"`{result['command']}`",
        "",
        f"{result['processor']}, {result['threads']} threads; {result['samples']} images to calibrate; "
        f"noise: {result['noise']}; " + ", ".join(f"{k} {v}" for k, v in result["versions"].items()) + ".",
        "",
        "| model | photos | compared | with | labels changed | SQNR dB |",
        "|---|--:|---|---|--:|--:|",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['model']} | {row['photos']} | {row['compared']} | {row['with']} "
            f"| {100 * row['flips']:.1f} % {interval(row)}| {row['sqnr_db']:.1f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
