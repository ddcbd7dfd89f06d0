"""A pruned network beside its rival, the unpruned network on smaller images, at equal measured latency.

    python benchmarks/prune_rival.py [--sets clothing10-40,signdigits6-30] [--seeds 0] [--size 96] [--speedup 1.5]
        [--data ../shared/data] [--more DIR]

EfficientNet-Lite0 is fine-tuned with the defaults and pruned by ``tlopt prune --speedup`` with its defaults. The
rival is the same network, fine-tuned with the defaults at the image size that prune names: the largest at which it is
as fast. Where prune names none, no smaller size that was timed is as fast, and there is no rival to train.
A second rival is trained for as long as the pruned network took in all: its fine-tuning, its pruning with the timing of
layers, and its recovery.

Sets are those of effort.py: images of each class to train and to choose on, and 400 others that judge once. All
networks of a set and seed are timed in turns in ONNX Runtime. What is there already is not made anew.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accuracy import processor_seconds
from effort import drawn

from tlopt.artifact import Artifact
from tlopt.environment import cores, processor, versions
from tlopt.images import scan
from tlopt.images.opening import open_pixels
from tlopt.pruning import latency
from tlopt.publishing import write_whole
from tlopt.sources import open_model
from tlopt.stages.finetune import finetune
from tlopt.stages.prune import prune
from tlopt.training.inputs import predict

HERE = Path(__file__).resolve().parent
MODEL = "pip:efficientnet_lite0"
BATCHES = (1, 32)
NETWORKS = ("whole", "pruned", "rival", "rival, as long")
EPOCHS = 6  # of fine-tuning, by default

Row = dict[str, Any]


def made(name: str, seed: int, options: argparse.Namespace, places: Sequence[Path]) -> Path:
    """Make the networks of a set and seed that are not there yet; return their folder."""
    work: Path = options.work / f"{name}-{options.size}-{seed}-{options.speedup:g}"
    images = work / "images" / "set"
    if not images.exists():
        drawn(name, seed, places, work / "images")

    def once(label: str, make: Callable[[Path], object]) -> float:
        if not (work / label).exists():
            started = processor_seconds()
            make(work / label)
            write_whole(work / f"{label}.json", json.dumps(round(processor_seconds() - started, 1)) + "\n")
        return seconds(work, label)

    def tuned(to: Path, size: int, epochs: int = EPOCHS) -> Artifact:
        return finetune(
            images, to, model=MODEL, image_size=size, epochs=epochs, seed=seed, cache_dir=options.work / "cache"
        )

    taken = once("whole", lambda to: tuned(to, options.size))
    taken += once(
        "pruned",
        lambda to: prune(work / "whole", to, speedup=options.speedup, seed=seed, cache_dir=options.work / "cache"),
    )
    if (rival := Artifact.load(work / "pruned").card.torch.rival) is not None:
        own = once("rival", lambda to: tuned(to, rival.image_size))
        once("rival, as long", lambda to: tuned(to, rival.image_size, round(EPOCHS * max(1.0, taken / own))))
    return work


def seconds(work: Path, label: str) -> float:
    """Return the seconds of processor time that a network took."""
    return float(json.loads((work / f"{label}.json").read_text(encoding="utf-8")))


def measured(name: str, seed: int, work: Path) -> list[Row]:
    """Return a row for each network of a set and seed."""
    file = work / "rows.json"
    if not file.exists():
        write_whole(file, json.dumps(_rows(name, seed, work)) + "\n")
    rows: list[Row] = json.loads(file.read_text(encoding="utf-8"))
    return rows


def _rows(name: str, seed: int, work: Path) -> list[Row]:
    artifacts = {label: Artifact.load(work / label) for label in NETWORKS if (work / label).exists()}
    networks = {label: open_model(artifact) for label, artifact in artifacts.items()}
    sizes = {label: artifact.card.preprocess.size for label, artifact in artifacts.items()}
    found = latency.compare(list(networks.values()), list(sizes.values()), BATCHES, threads=1, seconds=2)
    times = dict(zip(networks, found, strict=True))
    judges = scan(work / "images" / "set").split(val=0, test=0, seed=0)["test"]
    rival = artifacts["pruned"].card.torch.rival
    said = "none is as fast" if rival is None else "rival" if rival.better else "pruned"
    rows = []
    for label, network in networks.items():
        test = open_pixels(judges, artifacts[label].card.preprocess, cache_gb=0)
        logits, labels = predict(network, test, device=torch.device("cpu"))
        rows.append({
            "set": name, "seed": seed, "network": label, "size": sizes[label],
            "test_accuracy": round(float((logits.argmax(1) == labels).mean()), 4), "test_images": len(labels),
            "ms": {str(batch): round(times[label][batch], 3) for batch in BATCHES},
            "seconds": seconds(work, label), "prune_prefers": said,
        })  # fmt: skip
    return rows


def markdown(record: dict[str, Any]) -> str:
    """Return the rows as tables: a line for each set and seed, and what follows from all of them."""
    lines = [
        "# A pruned network beside the unpruned one on smaller images", "",
        f"{record['model']}, fp32. {record['device']}, ONNX Runtime {record['versions'].get('onnxruntime')}; "
        f"{record['timing']}. Seconds of processor time: of each network, in this order.", "",
        f"    {record['command']}", "",
        "| set | seed | unpruned | pruned | rival | rival, as long | rival's px | pruned, batch 1 and 32 "
        "| rival, batch 1 and 32 | prune prefers | seconds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|---:|",
    ]  # fmt: skip
    groups: dict[tuple[str, int], dict[str, Row]] = {}
    for row in record["rows"]:
        groups.setdefault((row["set"], row["seed"]), {})[row["network"]] = row
    for (name, seed), group in groups.items():
        whole, rival = group["whole"], group.get("rival")
        cells = [
            name, seed, *(f"{group[label]['test_accuracy']:.3f}" if label in group else "" for label in NETWORKS),
            rival["size"] if rival else "", *(_speed(whole, group.get(label)) for label in ("pruned", "rival")),
            whole["prune_prefers"], ", ".join(f"{group[label]['seconds']:.0f}" for label in NETWORKS if label in group),
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*lines, "", *_summary(list(groups.values()))]) + "\n"


def _speed(whole: Row, one: Row | None) -> str:
    return ", ".join(f"{whole['ms'][str(batch)] / one['ms'][str(batch)]:.2f} x" for batch in BATCHES) if one else ""


def _summary(groups: Sequence[dict[str, Row]]) -> list[str]:
    lost = [100 * (one["whole"]["test_accuracy"] - one["pruned"]["test_accuracy"]) for one in groups]
    lines = [f"Pruning loses {statistics.mean(lost):.1f} points in the mean of {len(groups)} runs."]
    for label in NETWORKS[2:]:
        beside = [one for one in groups if label in one]
        if not beside:
            continue
        ahead = [100 * (one["pruned"]["test_accuracy"] - one[label]["test_accuracy"]) for one in beside]
        right = sum(
            (one["whole"]["prune_prefers"] == "rival") == (points <= 0)
            for one, points in zip(beside, ahead, strict=True)
        )
        lines += [
            "",
            f"Beside the {label}: {statistics.mean(ahead):+.1f} points in the mean of {len(beside)} runs, ahead in "
            f"{sum(points > 0 for points in ahead)}. What prune prefers is the more accurate on the test in {right}.",
        ]  # fmt: skip
    return lines


def main() -> None:
    """Do the sets and seeds that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="clothing10-40,elpv-100,signdigits6-30")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--speedup", type=float, default=1.5)
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared/data")
    parser.add_argument("--more", type=Path, help="folder with more sets")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-rival"))
    parser.add_argument("--out", type=Path, default=HERE / "results/prune-rival.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    places = [place for place in (options.data, options.more) if place is not None]
    rows: list[Row] = []
    for seed in map(int, options.seeds.split(",")):
        for name in options.sets.split(","):
            rows += measured(name, seed, made(name, seed, options, places))
            record = {
                "command": "python benchmarks/prune_rival.py "
                f"--sets {options.sets} --seeds {options.seeds} --size {options.size} --speedup {options.speedup:g}"
                + " --more MORE" * (options.more is not None),
                "model": MODEL, "device": processor(), "cores": cores(), "versions": versions(),
                "timing": "median of turns, 2 s per network and batch size, one thread, after warm-up",
                "written": time.strftime("%Y-%m-%d"), "rows": rows,
            }  # fmt: skip
            write_whole(options.out, json.dumps(record, indent=1) + "\n")
            write_whole(options.out.with_suffix(".md"), markdown(record))


if __name__ == "__main__":
    main()
