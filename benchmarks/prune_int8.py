"""What pruning and int8 bring together, and what they cost in accuracy, where images are few, too.

    python benchmarks/prune_int8.py [--sets clothing10,signdigits6-60] [--networks lite0=1.6,resnet50=1.5]
        [--seeds 0,1,2] [--size 128] [--data ../shared/data] [--weights ../shared/weights] [--more DIR]

"lite0=1.6" is EfficientNet-Lite0, pruned by ``tlopt prune --speedup 1.6``. Each network is fine-tuned, pruned,
exported and quantized with the defaults. The accuracy is that of the files on test images that judge once. The
speed-up is that of the int8 file beside the unpruned one in fp32 in ONNX Runtime: both are opened anew in turns.

"clothing10" is the set with its own parts. Others are drawn as in effort.py: "signdigits6-60" has 60 images of each
class to train and to choose on, and at most 400 others that judge. What is there already is not made anew.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from effort import drawn
from int8_judge import BATCHES, ort, ov, side_by_side
from pretrained import NETWORKS, unpacked

from tlopt.artifact import Artifact
from tlopt.environment import processor, versions
from tlopt.measure.answers.images import open_part
from tlopt.measure.answers.predictions import answer
from tlopt.measure.statistics import paired_drop
from tlopt.publishing import write_whole
from tlopt.stages.export import export
from tlopt.stages.finetune import finetune
from tlopt.stages.prune import prune
from tlopt.stages.quantize import quantize

HERE = Path(__file__).resolve().parent
RUNTIMES = {"onnxruntime": ort, "openvino": ov}

Row = dict[str, Any]
Kind = tuple[str, str, str]  # network, precision, runtime
UNPRUNED: Kind = ("whole", "fp32", "onnxruntime")


def made(images: Path, work: Path, network: str, speedup: float, seed: int, options: argparse.Namespace) -> None:
    """Make the artifacts of a network, a set and a seed that are not there yet."""
    model, file = NETWORKS[network]
    cache = options.work / "cache"

    def once(label: str, make: Callable[[Path], object]) -> Artifact:
        if not (work / label).exists():
            make(work / label)
        return Artifact.load(work / label)

    weights = unpacked(file, options.weights, options.work)
    whole = once(
        "whole",
        lambda to: finetune(
            images, to, model=model, weights=weights, image_size=options.size, seed=seed, cache_dir=cache
        ),
    )
    pruned = once("pruned", lambda to: prune(whole, to, speedup=speedup, seed=seed, cache_dir=cache))
    for name, network_of in (("whole", whole), ("pruned", pruned)):
        exported = once(f"{name}-fp32", functools.partial(export, network_of))
        for runtime in RUNTIMES:
            once(f"{name}-int8-{runtime}", functools.partial(quantize, exported, for_=runtime))


def measured(work: Path, size: int) -> list[Row]:
    """Judge and time what was made; return a row for each file and the runtime that it is made for."""
    file = work / "rows.json"
    if not file.exists():
        write_whole(file, json.dumps(_rows(work, size)) + "\n")
    rows: list[Row] = json.loads(file.read_text(encoding="utf-8"))
    return rows


def _rows(work: Path, size: int) -> list[Row]:
    artifacts = {
        (network, precision, runtime): Artifact.load(work / folder)
        for network in ("whole", "pruned")
        for precision, runtime, folder in (
            ("fp32", "onnxruntime", f"{network}-fp32"),
            *(("int8", runtime, f"{network}-int8-{runtime}") for runtime in RUNTIMES),
        )
    }
    photos = open_part(Artifact.load(work / "whole"))
    right = {kind: answer(artifact, photos, backend=kind[2], keep=True).correct for kind, artifact in artifacts.items()}
    shares = timed({kind: artifact.payload(".onnx") for kind, artifact in artifacts.items()}, size)
    rows = []
    for kind, correct in right.items():
        before = right[UNPRUNED]
        lost = paired_drop(int((before & ~correct).sum()), int((correct & ~before).sum()), len(correct))
        rows.append({
            **dict(zip(("network", "precision", "runtime"), kind, strict=True)),
            "accuracy": round(float(correct.mean()), 4), "test_images": len(correct),
            "lost": round(float(before.mean() - correct.mean()), 4), "lost_95": [round(bound, 4) for bound in lost],
            "share_of_time": shares[kind],
        })  # fmt: skip
    return rows


def timed(files: dict[Kind, Path], size: int) -> dict[Kind, dict[str, Any]]:
    """Return each file's share of the time of the unpruned one in fp32, with its interval, for each batch."""
    found: dict[Kind, dict[str, Any]] = {kind: {} for kind in files}
    openers = {"/".join(kind): functools.partial(RUNTIMES[kind[2]], file) for kind, file in files.items()}
    openers["peer"] = openers.pop("/".join(UNPRUNED))
    for batch in BATCHES:
        inputs = np.random.default_rng(0).standard_normal((batch, 3, size, size), dtype=np.float32)
        shares = side_by_side(openers, inputs)
        for kind, by_batch in found.items():
            if kind != UNPRUNED:
                by_batch[str(batch)] = shares["/".join(kind)]
    return found


def markdown(record: dict[str, Any]) -> str:
    """Return the rows as a table, and the means over the seeds."""
    lines = [
        "# Pruning and int8 together", "",
        f"{record['device']}, one thread; ONNX Runtime {record['versions'].get('onnxruntime')}, OpenVINO "
        f"{record['versions'].get('openvino')}; {record['size']} px. Points lost and speed-ups (batch 1 and 32) are "
        "beside the unpruned network in fp32 in ONNX Runtime. Brackets: 95 %.", "",
        f"    {record['command']}", "",
        "| set | network, asked | seed | file | test accuracy | points lost | batch 1 | batch 32 |", f"{'|---' * 8}|",
    ]  # fmt: skip
    for run in record["runs"]:
        for row in run["rows"]:
            low, high = (100 * bound for bound in row["lost_95"])
            lost = f"{100 * row['lost']:.1f} ({low:.1f} to {high:.1f})" if row["share_of_time"] else ""
            cells = (
                run["set"], f"{run['network']}, {run['asked']:g} x", run["seed"], described(row),
                f"{row['accuracy']:.3f} of {row['test_images']}", lost, *(speedup(row, batch) for batch in BATCHES),
            )  # fmt: skip
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, "", *means(record["runs"])]) + "\n"


def described(row: Row) -> str:
    return f"{row['network'].replace('whole', 'unpruned')}, {row['precision']}, {row['runtime']}"


def speedup(row: Row, batch: int) -> str:
    """Return the speed-up with its interval; nothing for what others are compared with."""
    if (found := row["share_of_time"].get(str(batch))) is None:
        return ""
    low, high = sorted(1 / share for share in found["share_95"])
    return f"{1 / found['share']:.2f} x ({low:.2f} to {high:.2f})"


def means(runs: Sequence[Row]) -> list[str]:
    """Return, for each set and network, what each file loses and gains in the mean of its seeds, a line each."""
    lines = []
    for which in dict.fromkeys((run["set"], run["network"], run["asked"]) for run in runs):
        own = [run["rows"] for run in runs if (run["set"], run["network"], run["asked"]) == which]
        for same in zip(*own, strict=True):
            if not same[0]["share_of_time"]:
                continue
            lost = statistics.mean(100 * row["lost"] for row in same)
            times = [min(1 / row["share_of_time"][str(batch)]["share"] for row in same) for batch in BATCHES]
            lines.append(
                f"{which[0]}, {which[1]}, {described(same[0])}: {lost:.1f} points lost in the mean of {len(same)} "
                f"seeds; at least {times[0]:.2f} x at batch {BATCHES[0]} and {times[1]:.2f} x at batch {BATCHES[1]}."
            )
    return lines


def main() -> None:
    """Do the sets, networks and seeds that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="clothing10,signdigits6-60,flowers12-30")
    parser.add_argument("--networks", default="lite0=1.6,resnet50=1.5", help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--size", type=int, default=128)
    for option, place in {"data": "data", "weights": "weights"}.items():
        parser.add_argument(f"--{option}", type=Path, default=HERE.parents[1] / "shared" / place)
    parser.add_argument("--more", type=Path, help="folder with more sets")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-prune-int8"))
    parser.add_argument("--out", type=Path, default=HERE / "results/prune-int8.json")
    options = parser.parse_args()
    runs: list[Row] = json.loads(options.out.read_text(encoding="utf-8"))["runs"] if options.out.exists() else []
    for network, asked in (entry.split("=") for entry in options.networks.split(",")):
        for name in options.sets.split(","):
            for seed in map(int, options.seeds.split(",")):
                key = {"set": name, "network": network, "asked": float(asked), "seed": seed}
                if any(key.items() <= run.items() for run in runs):
                    continue
                work = options.work / f"{name}-{network}-{asked}-{options.size}-{seed}"
                made(photos(name, seed, work, options), work, network, float(asked), seed, options)
                runs.append({**key, "rows": measured(work, options.size)})
                write(options, runs)


def photos(name: str, seed: int, work: Path, options: argparse.Namespace) -> Path:
    """Return the folder of a set: its own, or one that is drawn."""
    if "-" not in name:
        return Path(options.data / name)
    places = [place for place in (options.data, options.more) if place is not None]
    drawn_to = work / "images"
    return drawn_to / "set" if drawn_to.exists() else drawn(name, seed, places, drawn_to)


def write(options: argparse.Namespace, runs: list[Row]) -> None:
    record = {
        "command": f"python benchmarks/prune_int8.py --sets {options.sets} --networks {options.networks} "
        f"--seeds {options.seeds}" + " --more MORE" * (options.more is not None),
        "device": processor(), "versions": versions(), "size": options.size,
        "written": time.strftime("%Y-%m-%d"), "runs": runs,
    }  # fmt: skip
    write_whole(options.out, json.dumps(record, indent=1) + "\n")
    write_whole(options.out.with_suffix(".md"), markdown(record))


if __name__ == "__main__":
    main()
