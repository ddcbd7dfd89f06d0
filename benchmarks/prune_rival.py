"""A pruned network beside its rival: the unpruned network, fine-tuned for smaller images, at equal measured latency.

    python benchmarks/prune_rival.py [--sets clothing10-48,signdigits6] [--seeds 0] [--size 64] [--speedup 1.5]

EfficientNet-Lite0 is fine-tuned with the defaults on a few hundred training images and cut once by
``tlopt prune --speedup`` with its defaults. From that cut it recovers for five epochs and, as the default now is, for
as many epochs as 200 steps take. The rival is the same network, fine-tuned with the defaults at the image size that
prune names: the largest at which it is as fast. Accuracy is that on the test part, time that of all of them in
turns in ONNX Runtime. The estimate is what prune says of the rival without training it, on the validation part. Sets
are those of accuracy.py: a number after the name is the training images of each class. Finished runs are kept.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accuracy import opened, processor_seconds
from torch import nn

from tlopt.artifact import Artifact
from tlopt.environment import cores, processor, versions
from tlopt.images import reopen
from tlopt.images.opening import open_pixels
from tlopt.images.pixels import Pixels
from tlopt.preprocess import Preprocess
from tlopt.pruning import latency, rival
from tlopt.publishing import write_whole
from tlopt.sources import open_model
from tlopt.stages import prune as stage
from tlopt.stages.finetune import finetune
from tlopt.training.estimate import estimate
from tlopt.training.inputs import predict
from tlopt.training.loop import train

RESULTS = Path(__file__).parent / "results"
MODEL = "pip:efficientnet_lite0"
BATCHES = (1, 32)


def pixels(artifact: Artifact, preprocess: Preprocess) -> dict[str, Pixels]:
    """Return the decoded images of each part."""
    assert artifact.card.images is not None
    parts = reopen(artifact.card.images)
    return {part: open_pixels(parts[part], preprocess).filled() for part in ("train", "val", "test")}


def accuracy(network: nn.Module, images: Pixels) -> float:
    """Return the share of right answers."""
    logits, labels = predict(copy.deepcopy(network), images, device=torch.device("cpu"))
    return round(float((logits.argmax(1) == labels).mean()), 4)


def measure(name: str, seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each network."""
    images = opened(name, options.work / "images")
    work = options.work / f"{name}-{options.size}-{seed}"
    whole = work / "whole"
    if not whole.exists():
        finetune(images, whole, model=MODEL, image_size=options.size, seed=seed)
    source = Artifact.load(whole)
    cut = work / "cut"
    if not cut.exists():
        stage.prune(source, cut, speedup=options.speedup, epochs=0, seed=seed)
    details = Artifact.load(cut).card.torch
    assert details.pruned is not None
    assert details.pruned.rival is not None, "no image size is as fast"
    smaller = details.pruned.rival.image_size
    other = work / f"rival-{smaller}"
    started = processor_seconds()
    if not other.exists():
        finetune(images, other, model=MODEL, image_size=smaller, seed=seed)
    spent = {"rival": processor_seconds() - started}
    own = pixels(source, source.card.preprocess)
    small = pixels(source, replace(source.card.preprocess, size=smaller))
    networks = {"unpruned": open_model(source)}
    steps = max(1, len(own["train"].folder) // 32)
    for label, epochs in {"pruned, 5 epochs": 5, "pruned, 200 steps": max(5, -(-200 // steps))}.items():
        networks[label] = open_model(Artifact.load(cut))
        started = processor_seconds()
        settings = replace(stage._RECOVERY, epochs=epochs, seed=seed, precision="fp32")
        train(networks[label], own["train"], own["val"], settings, teacher=open_model(source))
        spent[label] = processor_seconds() - started
    networks["rival"] = open_model(Artifact.load(other))
    sizes = [smaller if label == "rival" else options.size for label in networks]
    times = latency.compare(list(networks.values()), sizes, BATCHES, threads=1, seconds=3)
    frozen = rival.Smaller(size=smaller, network=_at(source, smaller), macs=0)
    found = estimate(
        frozen.network,
        (small["train"], small["val"]),
        networks["pruned, 200 steps"],
        (own["train"], own["val"]),
        seed=seed,
    )
    rows = []
    for (label, network), size, ms in zip(networks.items(), sizes, times, strict=True):
        parts = small if label == "rival" else own
        rows.append({
            "set": name, "seed": seed, "network": label, "size": size,
            "macs_m": round(rival.multiply_adds(network, size) / 1e6, 1),
            "test_accuracy": accuracy(network, parts["test"]), "val_accuracy": accuracy(network, parts["val"]),
            "train_images": len(parts["train"].folder), "test_images": len(parts["test"].folder),
            "val_images": len(parts["val"].folder), "seconds": round(spent.get(label, 0.0), 1),
            **{f"batch_{batch}_ms": round(ms[batch], 3) for batch in BATCHES},
            **{f"batch_{batch}_speedup": round(times[0][batch] / ms[batch], 3) for batch in BATCHES},
        })  # fmt: skip
    rows[-1] |= {
        "estimated_val_accuracy": round(found.accuracy, 4),
        "estimated_test_accuracy": round(
            estimate(frozen.network, (small["train"], small["test"]), networks["unpruned"], (own["train"], own["test"]),
                     seed=seed).accuracy, 4,
        ),
        "prune_says_better": bool(found.accuracy >= found.beside),
    }  # fmt: skip
    return rows


def _at(source: Artifact, size: int) -> nn.Module:
    card = replace(source.card, preprocess=replace(source.card.preprocess, size=size))
    return open_model(replace(source, card=card))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="clothing10-48,signdigits6")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--speedup", type=float, default=1.5)
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-rival"))
    parser.add_argument("--out", type=Path, default=RESULTS / "prune-rival.json")
    options = parser.parse_args()
    (options.work / "images").mkdir(parents=True, exist_ok=True)
    for seed in map(int, options.seeds.split(",")):
        for name in options.sets.split(","):
            write(options, name, seed, measure(name, seed, options))
    print(options.out.with_suffix(".md").read_text(encoding="utf-8"))


def write(options: argparse.Namespace, name: str, seed: int, rows: list[dict[str, Any]]) -> None:
    """Put the rows of a set and seed into the result file."""
    old = json.loads(options.out.read_text(encoding="utf-8"))["rows"] if options.out.exists() else []
    kept = [row for row in old if (row["set"], row["seed"]) != (name, seed)]
    record = {
        "command": f"python benchmarks/prune_rival.py --sets ... --seeds ... --size {options.size} "
        f"--speedup {options.speedup:g}",
        "model": MODEL, "device": processor(), "cores": cores(), "versions": versions(), "precision": "fp32",
        "timing": "median of turns, 3 s per network and batch size, one thread, after warm-up",
        "written": time.strftime("%Y-%m-%d"), "rows": kept + rows,
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(options.out, json.dumps(record, indent=2) + "\n")
    write_whole(options.out.with_suffix(".md"), markdown(record))


def markdown(record: dict[str, Any]) -> str:
    """Return the rows as a table."""
    lines = [
        "# A pruned network beside the unpruned one on smaller images", "",
        f"{record['model']}, {record['precision']}. {record['device']}, ONNX Runtime "
        f"{record['versions'].get('onnxruntime')}; {record['timing']}. Seconds of processor time: recovery, or the "
        "rival's fine-tuning.", "", f"    {record['command']}", "",
        "| set, training images | seed | network | px | M multiply-adds | test accuracy (images) | validation "
        "| batch 1 | batch 32 | seconds |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for row in record["rows"]:
        speed = [f"{row[f'batch_{b}_ms']:.2f} ms ({row[f'batch_{b}_speedup']:.2f} x)" for b in BATCHES]
        cells = (
            f"{row['set']}, {row['train_images']}", row["seed"], row["network"], row["size"], row["macs_m"],
            f"{row['test_accuracy']:.3f} ({row['test_images']})", f"{row['val_accuracy']:.3f}", *speed, row["seconds"],
        )  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", "| set | seed | rival, estimated on validation | it is | estimated on test | it is |",
              "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    lines += [
        f"| {row['set']} | {row['seed']} | {row['estimated_val_accuracy']:.3f} | {row['val_accuracy']:.3f} "
        f"| {row['estimated_test_accuracy']:.3f} | {row['test_accuracy']:.3f} |"
        for row in record["rows"]
        if "estimated_val_accuracy" in row
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
