"""A pruned network beside its rival: the unpruned network, fine-tuned for smaller images, at equal measured latency.

    python benchmarks/prune_rival.py [--sets clothing10-48,signdigits6] [--seeds 0] [--size 64] [--speedup 1.5]

EfficientNet-Lite0 is fine-tuned with the defaults on a few hundred training images and cut once by
``tlopt prune --speedup`` with its defaults. From that cut it recovers for five epochs and, as the default now is, for
as many epochs as 200 steps take. The rival is the same network, fine-tuned with the defaults at the image size that
prune names: the largest at which it is as fast. With --ratio the cut is by multiply-adds, and that size is found by
the clock afterwards. Accuracy is that on the test part, time that of all of them in
turns in ONNX Runtime. "Classifier refitted" is what prune judges the rival by, without training it: where no size is
as fast by the clock, it has as many multiply-adds. Sets
are those of accuracy.py: a number after the name is the images of each class. What is there already is not made anew.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accuracy import opened, processor_seconds
from torch import nn

from tlopt.artifact import Artifact, seal
from tlopt.environment import cores, processor, versions
from tlopt.images import reopen
from tlopt.images.opening import open_pixels
from tlopt.images.pixels import Pixels
from tlopt.preprocess import Preprocess
from tlopt.pruning import latency, rival
from tlopt.publishing import draft, write_whole
from tlopt.sources import keep, open_model
from tlopt.stages import prune as stage
from tlopt.stages.finetune import finetune
from tlopt.training.inputs import predict
from tlopt.training.loop import train
from tlopt.training.methods.estimate import estimate

RESULTS = Path(__file__).parent / "results"
MODEL = "pip:efficientnet_lite0"
BATCHES = (1, 32)
RECOVERIES = {"recovered-5-epochs": 0, "recovered": 200}  # steps, at least; both for five epochs at least
TIMED = ("whole", "cut", "rival")
STEPS = ("whole", "cut", "rival", *RECOVERIES, "measure")


def pixels(artifact: Artifact, preprocess: Preprocess) -> dict[str, Pixels]:
    """Return the decoded images of each part."""
    assert artifact.card.images is not None
    parts = reopen(artifact.card.images)
    return {part: open_pixels(parts[part], preprocess).filled() for part in ("train", "val", "test")}


def accuracy(network: nn.Module, images: Pixels) -> float:
    """Return the share of right answers."""
    logits, labels = predict(copy.deepcopy(network), images, device=torch.device("cpu"))
    return round(float((logits.argmax(1) == labels).mean()), 4)


def made(name: str, seed: int, options: argparse.Namespace, steps: tuple[str, ...]) -> Path:
    """Make what the steps name and what is not there yet, and return the folder of a set and seed."""
    work: Path = options.work / f"{name}-{options.size}-{seed}"
    images = opened(name, options.work / "images")

    def once(step: str, make: Callable[[Path], object]) -> None:
        if step in steps and not (work / step).exists():
            started = processor_seconds()
            make(work / step)
            seconds = {"seconds": round(processor_seconds() - started, 1)}
            write_whole(work / f"{step}.json", json.dumps(seconds) + "\n")

    once("whole", lambda to: finetune(images, to, model=MODEL, image_size=options.size, seed=seed))
    asked = {"speedup": options.speedup} if options.ratio is None else {"ratio": options.ratio}
    once("cut", lambda to: stage.prune(work / "whole", to, epochs=0, seed=seed, **asked))
    if "rival" in steps and (size := size_of_rival(work, by_the_clock=options.ratio is not None)):
        once("rival", lambda to: finetune(images, to, model=MODEL, image_size=size, seed=seed))
    for step in RECOVERIES:
        once(step, lambda to, step=step: recover(work, to, RECOVERIES[step], seed))  # type: ignore[misc]
    return work


def size_of_rival(work: Path, *, by_the_clock: bool) -> int:
    """Return the largest image size at which the unpruned network is as cheap as the pruned one; 0 for none.

    Args:
        work: Of a set and seed.
        by_the_clock: Measure it; otherwise the size is the one that prune named.
    """
    source, cut = Artifact.load(work / "whole"), Artifact.load(work / "cut")
    if not by_the_clock:
        return cut.card.torch.rival.image_size if cut.card.torch.rival is not None else 0
    assert cut.card.torch.macs is not None
    macs, size = cut.card.torch.macs, source.card.preprocess.size
    found = rival.of_time(
        lambda side: _at(source, side), open_model(cut), size, speedup=macs.before / macs.after, batches=BATCHES
    )
    return found.size if found is not None else 0


def recover(work: Path, out: Path, steps: int, seed: int) -> None:
    """Train a cut network as prune does: for so many steps, but for five epochs at least."""
    source, cut = Artifact.load(work / "whole"), Artifact.load(work / "cut")
    own = pixels(source, source.card.preprocess)
    epochs = max(5, -(-steps // max(1, len(own["train"].folder) // stage._RECOVERY.batch)))
    network = open_model(cut)
    settings = replace(stage._RECOVERY, epochs=epochs, seed=seed, precision="fp32")
    train(network, own["train"], own["val"], settings, teacher=open_model(source))
    with draft(out) as made:
        seal(made, keep(network, made.folder, cut.card))


def measure(name: str, seed: int, work: Path) -> list[dict[str, Any]]:
    """Return a row for each network; what was measured of it before is not measured anew."""

    def noted(label: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        file = work / f"{label}-measured.json"
        if not file.exists():
            write_whole(file, json.dumps(make()) + "\n")
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found

    def at(label: str) -> tuple[Artifact, nn.Module, int]:
        artifact = Artifact.load(work / label)
        return artifact, open_model(artifact), artifact.card.preprocess.size

    smaller = at("rival")[2] if (work / "rival").exists() else size_of_rival(work, by_the_clock=False)
    frozen = _at(at("whole")[0], smaller)

    def times() -> dict[str, Any]:
        networks, sizes = [at("whole")[1], at("cut")[1], frozen], [at("whole")[2], at("cut")[2], smaller]
        found = latency.compare(networks, sizes, BATCHES, threads=1, seconds=2)
        return {label: {str(batch): ms for batch, ms in own.items()} for label, own in zip(TIMED, found, strict=True)}

    def judged(label: str) -> dict[str, Any]:
        artifact, network, size = at(label)
        parts = pixels(artifact, artifact.card.preprocess)
        return {
            "size": size, "macs_m": round(rival.multiply_adds(network, size) / 1e6, 1),
            "test_accuracy": accuracy(network, parts["test"]), "val_accuracy": accuracy(network, parts["val"]),
            **{f"{part}_images": len(parts[part].folder) for part in ("train", "val", "test")},
        }  # fmt: skip

    def refitted() -> dict[str, Any]:
        source, whole, _ = at("whole")
        own = pixels(source, source.card.preprocess)
        small = pixels(source, replace(source.card.preprocess, size=smaller))
        both = {
            part: estimate(frozen, (small["train"], small[part]), whole, (own["train"], own[part]), seed=seed)
            for part in ("val", "test")
        }
        return {
            "size": smaller, "macs_m": round(rival.multiply_adds(frozen, smaller) / 1e6, 1),
            **{f"{part}_accuracy": round(found.accuracy, 4) for part, found in both.items()},
            **{f"{part}_images": len(small[part].folder) for part in ("train", "val", "test")},
        }  # fmt: skip

    ms = noted("times", times)
    rows = []
    made: dict[str, Callable[[], dict[str, Any]]]
    made = {label: partial(judged, label) for label in ("whole", *RECOVERIES, "rival") if (work / label).exists()}
    for label, make in {**made, "unpruned, classifier refitted": refitted}.items():
        own = ms["cut" if label in RECOVERIES else "whole" if label == "whole" else "rival"]  # training changes none
        file = work / f"{label}.json"
        rows.append({
            "set": name, "seed": seed, "network": label, **noted(label, make),
            **(json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}),
            **{f"batch_{batch}_ms": round(own[str(batch)], 3) for batch in BATCHES},
            **{f"batch_{batch}_speedup": round(ms["whole"][str(batch)] / own[str(batch)], 3) for batch in BATCHES},
        })  # fmt: skip
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
    parser.add_argument("--ratio", type=float, help="cut this share of the multiply-adds, which is quicker found")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-rival"))
    parser.add_argument("--steps", default=",".join(STEPS), help="what to do now; the rest in another call")
    parser.add_argument("--out", type=Path, default=RESULTS / "prune-rival.json")
    options = parser.parse_args()
    (options.work / "images").mkdir(parents=True, exist_ok=True)
    steps = tuple(options.steps.split(","))
    for seed in map(int, options.seeds.split(",")):
        for name in options.sets.split(","):
            work = made(name, seed, options, steps)
            if "measure" in steps:
                write(options, name, seed, measure(name, seed, work))


def write(options: argparse.Namespace, name: str, seed: int, rows: list[dict[str, Any]]) -> None:
    """Put the rows of a set and seed into the result file."""
    old = json.loads(options.out.read_text(encoding="utf-8"))["rows"] if options.out.exists() else []
    kept = [row for row in old if (row["set"], row["seed"]) != (name, seed)]
    record = {
        "command": f"python benchmarks/prune_rival.py --sets ... --seeds ... --size {options.size} "
        + (f"--speedup {options.speedup:g}" if options.ratio is None else f"--ratio {options.ratio:g}"),
        "model": MODEL, "device": processor(), "cores": cores(), "versions": versions(), "precision": "fp32",
        "timing": "median of turns, 2 s per network and batch size, one thread, after warm-up",
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
            f"{row['test_accuracy']:.3f} ({row['test_images']})", f"{row['val_accuracy']:.3f}", *speed,
            row.get("seconds", ""),
        )  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
