"""Pruning of channels alone beside pruning of whole blocks and channels, to the same share of multiply-adds.

    python benchmarks/prune_blocks.py [--sets clothing10-48] [--models efficientnet_lite0] [--seeds 0] [--size 64]

A network is fine-tuned with the defaults on a few hundred training images, and pruned by ``tlopt prune --ratio`` with
``--blocks keep`` and with ``--blocks auto``. Both recover in the same way. The number of blocks is chosen on validation
images, and the test part judges once. The networks take turns in ONNX Runtime, with the step int8 quantized ones, too.
Sets are those of accuracy.py: a number after the name is the images of each class. With --table it looks
instead at how well the table of layer times tells what the removal of a block saves. What is there already is not made
anew, so that the work can be done in parts (--steps).
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import opened, processor_seconds
from pretrained import unpacked

from tlopt.artifact import Artifact
from tlopt.environment import cores, processor, versions
from tlopt.measure.answers.images import open_part
from tlopt.measure.answers.predictions import answer
from tlopt.measure.statistics import paired_drop
from tlopt.networks import removal
from tlopt.pruning import analysis, latency
from tlopt.pruning.depth import blocks
from tlopt.publishing import write_whole
from tlopt.sessions import open_session
from tlopt.sources import open_model
from tlopt.stages.export import export
from tlopt.stages.finetune import finetune
from tlopt.stages.prune import prune
from tlopt.stages.quantize import quantize
from tlopt.timing import side_by_side

SHARED = Path(__file__).resolve().parents[2] / "shared"
RESULTS = Path(__file__).parent / "results"
MODELS = {
    "efficientnet_lite0": ("pip:efficientnet_lite0", ""),
    "resnet18": ("timm:resnet18", "resnet18.ktb"),
}
ARMS = ("keep", "auto")
STEPS = ("whole", *ARMS, "measure", "int8")
FAST = 0.2  # quantile of the runs that counts: other work may run on the machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="clothing10-48")
    parser.add_argument("--models", default="efficientnet_lite0")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=5, help="of recovery")
    parser.add_argument("--table", action="store_true", help="check the table of layer times instead")
    parser.add_argument("--steps", default=",".join(STEPS), help="what to do now; the rest in another call")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-blocks"))
    parser.add_argument("--out", type=Path, default=RESULTS / "prune-blocks.json")
    options = parser.parse_args()
    (options.work / "images").mkdir(parents=True, exist_ok=True)
    for name in options.models.split(","):
        for images in options.sets.split(","):
            for seed in map(int, options.seeds.split(",")):
                work = options.work / f"{name}-{images}-{options.size}-{seed}"
                make(work, name, images, seed, options)
                if options.table:
                    write(options, "blocks", table(work, name))
                elif "measure" in options.steps.split(","):
                    write(options, "rows", measured(work, name, images, seed, options))


def make(work: Path, model: str, images: str, seed: int, options: argparse.Namespace) -> None:
    """Make the networks that the steps name and that are not there yet."""
    steps = ("whole",) if options.table else options.steps.split(",")
    if "whole" in steps and not (work / "whole").exists():
        name, file = MODELS[model]
        finetune(
            opened(images, options.work / "images"), work / "whole", model=name, image_size=options.size, seed=seed,
            weights=unpacked(file, SHARED / "weights", options.work),
        )  # fmt: skip
    for arm in ARMS:
        out = work / f"{arm}-{options.ratio:g}-{options.epochs}"
        if arm in steps and not out.exists():
            started = processor_seconds()
            prune(
                work / "whole", out, ratio=options.ratio, epochs=options.epochs, seed=seed, blocks=arm, rival=False
            )  # fmt: skip
            write_whole(out.with_name(f"{out.name}.json"), json.dumps(round(processor_seconds() - started, 1)) + "\n")


def measured(work: Path, model: str, images: str, seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each network: its accuracy and its time as fp32, and as int8 if that is among the steps."""
    folders = {"whole": work / "whole"} | {arm: work / f"{arm}-{options.ratio:g}-{options.epochs}" for arm in ARMS}
    made = {label: Artifact.load(folder) for label, folder in folders.items()}
    networks = {label: open_model(artifact) for label, artifact in made.items()}
    fp32 = {label: latency.to_onnx(network, options.size) for label, network in networks.items()}
    int8 = {label: quantized(folder) for label, folder in folders.items()} if "int8" in options.steps.split(",") else {}
    graphs: dict[tuple[str, str], bytes | Path] = {(label, "fp32"): graph for label, graph in fp32.items()}
    graphs |= {(label, "int8"): artifact.payload(".onnx") for label, artifact in int8.items()}
    times = timed(graphs, options.size)
    parts = {part: open_part(made["whole"], part=part) for part in ("val", "test")}

    def right(artifact: Artifact, part: str) -> np.ndarray:
        found: np.ndarray = answer(artifact, parts[part], keep=True).correct
        return found

    test = {label: right(artifact, "test") for label, artifact in made.items()}
    rows = []
    for label, artifact in made.items():
        ours, reference = test[label], test["whole"]
        low, high = paired_drop(int((reference & ~ours).sum()), int((ours & ~reference).sum()), len(ours))
        seconds = folders[label].with_name(f"{folders[label].name}.json")
        splits = artifact.card.torch.pruned.splits if artifact.card.torch.pruned else ()
        rows.append({
            "model": model, "set": images, "seed": seed, "blocks": label,
            "removed_blocks": list(artifact.card.torch.removed_blocks),
            "tried": [{"blocks": list(split.blocks), "loss": split.loss} for split in splits],
            "macs_m": round(analysis.multiply_adds(networks[label], options.size) / 1e6, 2),
            "val_accuracy": round(float(right(artifact, "val").mean()), 4),
            "test_accuracy": round(float(ours.mean()), 4), "test_images": len(ours),
            "test_lost": round(float(reference.mean() - ours.mean()), 4),
            "test_lost_95": [round(low, 4), round(high, 4)],
            **({"int8_test_accuracy": round(float(right(int8[label], "test").mean()), 4)} if int8 else {}),
            **{f"{kind}_ms": round(ms, 3) for (own, kind), ms in times.items() if own == label},
            "seconds": json.loads(seconds.read_text(encoding="utf-8")) if seconds.exists() else None,
        })  # fmt: skip
    return rows


def quantized(folder: Path) -> Artifact:
    """Return a network as an int8 file."""
    fp32, int8 = folder.with_name(f"{folder.name}-fp32"), folder.with_name(f"{folder.name}-int8")
    if int8.exists():
        return Artifact.load(int8)
    return quantize(Artifact.load(fp32) if fp32.exists() else export(Artifact.load(folder), fp32), int8)


def timed(graphs: dict[tuple[str, str], bytes | Path], size: int) -> dict[tuple[str, str], float]:
    """Return the time of each graph at batch 1, milliseconds; they take turns."""
    feed = {"images": np.random.default_rng(0).standard_normal((1, 3, size, size), dtype=np.float32)}
    sessions = [open_session(graph, threads=1) for graph in graphs.values()]
    found = side_by_side([functools.partial(session.run, None, feed) for session in sessions], seconds=1)
    return {key: timing.quantile_ms(FAST) for key, timing in zip(graphs, found, strict=True)}


def table(work: Path, model: str) -> list[dict[str, Any]]:
    """Return for each block the share of the network's time that its removal saves: by the table, and by the clock."""
    source = Artifact.load(work / "whole")
    network, size = open_model(source), source.card.preprocess.size
    layers = analysis.analyze(network, size)
    # Only their whole widths are of interest: what no group connects is timed at no other.
    layers = replace(layers, layers=tuple(replace(layer, inputs={}, outputs={}) for layer in layers.layers))
    times = latency.measure(network, layers, size, (1,), threads=1)
    total = sum(times.cost(layer, {}) for layer in layers.layers)
    found = blocks.find(network, size)
    without = [copy.deepcopy(network) for _ in found]
    for smaller, block in zip(without, found, strict=True):
        removal.remove(smaller, [block.name])
    sessions = [open_session(latency.to_onnx(one, size), threads=1) for one in (network, *without)]
    feed = {"images": np.random.default_rng(0).standard_normal((1, 3, size, size), dtype=np.float32)}
    calls = [functools.partial(session.run, None, feed) for session in sessions]
    whole, *rest = (timing.quantile_ms(FAST) for timing in side_by_side(calls, seconds=0.6))
    return [
        {
            "model": model, "size": size, "block": block.name,
            "by_table": round(sum(times.cost(o, {}) for o in layers.layers if o.name in block.layers) / total, 4),
            "by_clock": round(1 - ms / whole, 4), "whole_ms": round(whole, 3),
        }
        for block, ms in zip(found, rest, strict=True)
    ]  # fmt: skip


def write(options: argparse.Namespace, kind: str, rows: list[dict[str, Any]]) -> None:
    """Put rows into the result file, in the place of those of the same network, set and seed."""
    old = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}

    def key(row: dict[str, Any]) -> list[Any]:
        return [row.get(name) for name in ("model", "set", "seed")]

    kept = [row for row in old.get(kind, []) if key(row) != key(rows[0])]
    record = {
        "rows": [], "blocks": [], **old,
        "command": f"python benchmarks/prune_blocks.py --sets ... --models ... --seeds ... --size {options.size} "
        f"--ratio {options.ratio:g} --epochs {options.epochs}",
        "device": processor(), "cores": cores(), "versions": versions(),
        "timing": f"batch 1, one thread, turns side by side, quantile {FAST:g} of the runs",
        "written": time.strftime("%Y-%m-%d"), kind: kept + rows,
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(options.out, json.dumps(record, indent=2) + "\n")
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
