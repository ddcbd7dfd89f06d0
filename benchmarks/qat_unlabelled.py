"""What `tlopt qat --images DIR` without labels brings beside plain int8, on networks where plain int8 is worst.

    python benchmarks/qat_unlabelled.py --images ../shared/data/clothing10 --work runs/benchmark-hard

The networks are those of hard_networks.py, trained in --work. QAT sees the training images in a flat folder, without
labels. Plain int8 calibrates on 128 of them. Both are judged as in hard_int8.py: by the labels that differ from fp32's
on images that training did not see. Graphs for ONNX Runtime and OpenVINO run there, those for TensorRT in exact
arithmetic. Seconds are processor time. Rows that the result file holds already are not made again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import processor_seconds
from hard_int8 import JUDGES, SAMPLES, Unseen
from hard_networks import trained
from int8_judge import RESULTS, RUNTIMES, answers, changed, linked

import tlopt
from tlopt.artifact import Artifact
from tlopt.environment import cores, processor, versions
from tlopt.images import ImageFolder, scan
from tlopt.publishing import write_whole

FILE = RESULTS / "qat-unlabelled.json"


def flat(images: ImageFolder, out: Path) -> Path:
    """Link images into a folder without class folders."""
    out.mkdir(parents=True, exist_ok=True)
    for file in images.files:
        link = out / file.replace("/", "-")
        if not link.exists():
            link.symlink_to((images.path / file).resolve())
    return out


def plain(network: Artifact, runtime: str, images: Path, parts: dict[Any, ImageFolder], out: Path) -> Artifact:
    """Quantize with tlopt's defaults."""
    shuffled = np.random.default_rng(0).permutation(len(parts["train"]))
    few = parts["train"].select(np.sort(shuffled[:SAMPLES]))
    own = linked(images, few.files, parts["val"].files, out / "images")
    fp32 = tlopt.export(network, out / "fp32", force=True)
    return tlopt.quantize(fp32, out / f"plain-{runtime}", images=own, samples=SAMPLES, for_=runtime, force=True)


def taught(network: Artifact, runtime: str, images: Path, out: Path, settings: dict[str, Any]) -> Artifact:
    """Train for int8 without labels, and quantize with the scales that were learned."""
    made = tlopt.qat(network, out / f"qat-{runtime}", images=images, for_=runtime, force=True, **settings)
    exported = tlopt.export(made, out / f"qat-{runtime}-fp32", force=True)
    return tlopt.quantize(exported, out / f"qat-{runtime}-int8", images=images, for_=runtime, force=True)


def rows(name: str, runtime: str, images: Path, work: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Return both ways' rows for a network and a runtime."""
    network, out = trained(name, images, work), work / name / "unlabelled"
    parts = scan(images).split(val=0.1, test=0.1, seed=0)
    fp32 = tlopt.export(network, out / "reference", force=True)
    unseen = Unseen.of(fp32, parts)
    found = []
    ways: dict[str, Callable[[], Artifact]] = {
        "plain": lambda: plain(network, runtime, images, parts, out),
        "qat": lambda: taught(network, runtime, flat(parts["train"], out / "flat"), out, settings),
    }
    for way, make in ways.items():
        started = processor_seconds()
        made = make()
        seconds = processor_seconds() - started
        logits = answers(RUNTIMES[JUDGES[runtime][0]](made.payload(".onnx")), unseen.inputs)
        found.append({
            "network": name, "runtime": runtime, "way": way, "settings": settings if way == "qat" else {},
            **unseen.judged(logits), "seconds": round(seconds),
        })  # fmt: skip
    return found


def table(result: dict[str, Any]) -> str:
    """Return a row for each way."""
    lines = [
        "# QAT without labels beside plain int8", "",
        f"{result['processor']}, {result['cores']} thread(s); torch {result['versions']['torch']}; {result['command']}",
        "", "| network | for | way | labels changed | margin error | accuracy | fp32 | seconds |", f"{'|---' * 8}|",
    ]  # fmt: skip
    for row in result["rows"]:
        way = " ".join([row["way"], *(f"{key} {value}" for key, value in row["settings"].items())])
        shown = f"{changed(row)} | {row['accuracy']:.3f}"
        lines.append(
            f"| {row['network']} | {row['runtime']} | {way} | {shown} | {row['fp32_accuracy']:.3f} | {row['seconds']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Make the rows that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of images with train, val and test parts")
    parser.add_argument("--work", type=Path, required=True, help="folder of the trained networks")
    parser.add_argument("--cases", default="mobilenetv3_large:onnxruntime,efficientnet_b0:onnxruntime")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1e-4)
    given = parser.parse_args()
    result: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {"rows": []}
    command = f"`python benchmarks/qat_unlabelled.py --images {given.images} --work WORK`"
    result |= {"command": command, "processor": processor(), "cores": cores(), "versions": versions()}
    settings = {"epochs": given.epochs, "lr": given.lr}
    for case in given.cases.split(","):
        name, _, runtime = case.partition(":")
        if any(
            (row["network"], row["runtime"], row["settings"]) == (name, runtime, settings) for row in result["rows"]
        ):
            continue
        known = [row for row in result["rows"] if row["way"] == "plain"]
        made = rows(name, runtime, given.images, given.work, settings)
        twice = {(row["network"], row["runtime"], row["way"]) for row in known}
        result["rows"] += [row for row in made if (row["network"], row["runtime"], row["way"]) not in twice]
        write_whole(FILE, json.dumps(result, indent=1) + "\n")
        write_whole(FILE.with_suffix(".md"), table(result))
        print(table(result), flush=True)


if __name__ == "__main__":
    main()
