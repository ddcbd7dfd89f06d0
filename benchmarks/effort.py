"""What `finetune --effort quick|default|best` and `--folds 5` bring and cost where there are few images.

    python benchmarks/effort.py [--sets A,B] [--arms 'A; B'] [--seeds 0,1] [--size 64] [--out …] [--data ../shared/data]
        [--more DIR]

"clothing10-20" has 20 images of each class of clothing10 to train and choose on, drawn by the seed, without a val part.
All other images, at most 400, are the test part, by which each run is judged once. Seconds are processor time of one
thread, without the test. Runs that the result file holds already are not repeated. elpv is the package elpv-dataset.
--more is a folder with more sets, a folder of images each. "quick, 5 folds" is the frozen network with a regression
that is chosen by folds and fitted to all images: what fine-tuning has to be worth its time against.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy import elpv, processor_seconds

from tlopt import sources
from tlopt.environment import processor, versions
from tlopt.images import scan
from tlopt.images.opening import open_pixels
from tlopt.publishing import write_whole
from tlopt.stages.finetune import finetune
from tlopt.training.inputs import predict

MODEL = "pip:efficientnet_lite0"
Run = dict[str, Any]
ARMS: dict[str, Run] = {e: {"effort": e} for e in ("quick", "default", "best")}
ARMS |= {f"{e}, 5 folds": {"effort": e, "folds": 5} for e in ("quick", "default")}
OTHERS: dict[str, Run] = {"default, batches of 32": {"batch": 32}}  # named alone
SETS = "clothing10-20,signdigits6-30,elpv-100"
MOST = 400  # images of the test


def drawn(name: str, seed: int, data: Sequence[Path], folder: Path) -> Path:
    """Link so many images of each class into a train part, and others into a test part."""
    base, _, per_class = name.partition("-")
    found = [place / base for place in data if (place / base).is_dir()]
    whole = scan(elpv(folder / "elpv") if base == "elpv" else found[0])
    order = np.random.default_rng(seed).permutation(len(whole))
    few = np.concatenate([order[whole.labels[order] == k][: int(per_class)] for k in range(len(whole.classes))])
    for part, chosen in (("train", few), ("test", order[~np.isin(order, few)][:MOST])):
        for i in chosen.tolist():
            file = folder / "set" / part / whole.classes[whole.labels[i]] / whole.files[i].replace("/", "-")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.symlink_to((whole.path / whole.files[i]).resolve())
    return folder / "set"


def one(key: Run, data: Sequence[Path]) -> Run:
    """Fine-tune once; return what the card says, the accuracy on the test and the time."""
    with tempfile.TemporaryDirectory() as scratch:
        images = drawn(key["set"], key["seed"], data, Path(scratch))
        started = processor_seconds()
        made = finetune(
            images, Path(scratch) / "out", model=MODEL, image_size=key["size"], seed=key["seed"],
            cache_dir=Path(scratch) / "cache", **(ARMS | OTHERS)[key["arm"]],
        )  # fmt: skip
        seconds = processor_seconds() - started
        test = open_pixels(scan(images).split(val=0, test=0, seed=0)["test"], made.card.preprocess, cache_gb=0)
        logits, labels = predict(sources.open_model(made), test, device=torch.device("cpu"))
    metrics = made.card.torch.metrics
    return {
        "key": key, "test_accuracy": float((logits.argmax(1) == labels).mean()), "test_images": len(labels),
        "seconds": round(seconds, 1),
        "validation": {name: value for name, value in metrics["validation"].items() if name != "per_class"},
        **{name: metrics[name] for name in ("soup", "fine_tuned_share", "folds") if name in metrics},
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """Return the runs as a table, means over the seeds."""
    found = {tuple(run["key"].values()): run for run in result["runs"]}
    lines = [
        "# What --effort and --folds bring and cost", "",
        f"{result['device']}, one thread; torch {result['versions']['torch']}; EfficientNet-Lite0. "
        f"`{result['command']}`. Points: test accuracy above the default of its seed.", "",
        "| set | px | arm | seeds | accuracy told | test accuracy | points | seconds | times |", f"{'|---' * 9}|",
    ]  # fmt: skip
    beside = [key for key in found if (*key[:2], "default", key[3]) in found]
    for kind in dict.fromkeys(key[:3] for key in beside):
        seeds = [seed for *rest, seed in beside if tuple(rest) == kind]
        runs, plain = [found[*kind, seed] for seed in seeds], [found[*kind[:2], "default", seed] for seed in seeds]
        told = statistics.mean(run["validation"]["accuracy"] for run in runs)
        test, seconds = (statistics.mean(run[what] for run in runs) for what in ("test_accuracy", "seconds"))
        over = [100 * (a["test_accuracy"] - b["test_accuracy"]) for a, b in zip(runs, plain, strict=True)]
        times = statistics.mean(a["seconds"] / b["seconds"] for a, b in zip(runs, plain, strict=True))
        points = f"{statistics.mean(over):+.1f} ({min(over):+.1f} to {max(over):+.1f})"
        row = (*kind, len(seeds), f"{told:.3f}", f"{test:.3f}", points, f"{seconds:.0f}", f"{times:.2f}")
        lines.append(f"| {' | '.join(map(str, row))} |")
    lines += ["", *_over_all(found), "", *_beside_regression(found)]
    return "\n".join(lines) + "\n"


def _over_all(found: dict[tuple[Any, ...], Run]) -> list[str]:
    """Return what each arm brings and costs beside the default, means over all runs, a line each."""
    lines = []
    for arm in dict.fromkeys(key[2] for key in found if key[2] != "default"):
        pairs = [
            (one, found[*key[:2], "default", key[3]])
            for key, one in found.items()
            if key[2] == arm and (*key[:2], "default", key[3]) in found
        ]
        if pairs:
            over = statistics.mean(100 * (a["test_accuracy"] - b["test_accuracy"]) for a, b in pairs)
            times = statistics.mean(a["seconds"] / b["seconds"] for a, b in pairs)
            lines.append(
                f"{arm}: {over:+.1f} points in {times:.2f} times the default's seconds, means of {len(pairs)} runs."
            )
    return lines


def _beside_regression(found: dict[tuple[Any, ...], Run]) -> list[str]:
    """Return how often an effort is below the regression on all images of the same set and seed, a line each."""
    lines = []
    for arm in ("default", "best"):
        pairs = [
            (one["test_accuracy"], found[*key[:2], "quick, 5 folds", key[3]]["test_accuracy"])
            for key, one in found.items()
            if key[2] == arm and (*key[:2], "quick, 5 folds", key[3]) in found
        ]
        if pairs:
            below = sum(own < regression for own, regression in pairs)
            lines.append(f"{arm}: below the regression on all images (quick, 5 folds) in {below} of {len(pairs)} runs.")
    return lines


def main() -> None:
    """Do the runs that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent
    for option, value in {"sets": SETS, "arms": "; ".join(ARMS), "seeds": "0,1"}.items():
        parser.add_argument(f"--{option}", default=value)
    parser.add_argument("--size", type=int, default=64)
    for option, path in {"out": here / "results/effort.json", "data": here.parents[1] / "shared/data"}.items():
        parser.add_argument(f"--{option}", type=Path, default=path)
    parser.add_argument("--more", type=Path, help="folder with more sets")
    given = parser.parse_args()
    places = [place for place in (given.data, given.more) if place is not None]
    torch.set_num_threads(1)
    result: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {"runs": []}
    command = f"python benchmarks/effort.py --sets {given.sets} --arms '{given.arms}' --seeds {given.seeds}"
    command += f" --size {given.size}"
    result |= {"command": command + " --more MORE" * bool(given.more), "device": processor(), "versions": versions()}
    for seed in map(int, given.seeds.split(",")):
        for name in given.sets.split(","):
            for arm in given.arms.split("; "):
                key = {"set": name, "size": given.size, "arm": arm, "seed": seed}
                if all(run["key"] != key for run in result["runs"]):
                    result["runs"].append(one(key, places))
                    write_whole(given.out, (json.dumps(result, indent=1) + "\n").encode())
                    write_whole(given.out.with_suffix(".md"), table(result).encode())


if __name__ == "__main__":
    main()
