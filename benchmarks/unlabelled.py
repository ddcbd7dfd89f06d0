"""What `finetune --unlabelled DIR` brings and costs where there are few labelled images and many others.

    python benchmarks/unlabelled.py [--arms 'A; B'] [--seeds 0,1,2] [--labelled 10] [--judge test] [--out …] [--data …]

So many images of each class of clothing10's train part have labels, drawn by the seed: half of them to train on, half
to choose by. The others of that part lie in a flat folder without labels. "with another set" mixes signdigits6 into
it, 600 images of hands. The teacher is the same network at 128 px with --effort quick, on the same labelled images.
"four times as long" is the time that --unlabelled may take, without it. The test part of clothing10 judges each run
once. `--judge val` judges by its val part, to compare values of `--confidence` and `--most`. Seconds are processor
time of one thread. Runs that the file holds already are not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy import processor_seconds

from tlopt import sources
from tlopt.environment import processor, versions
from tlopt.images import ImageFolder, scan
from tlopt.images.opening import open_pixels
from tlopt.publishing import write_whole
from tlopt.stages.finetune import finetune
from tlopt.training import joining
from tlopt.training.inputs import predict
from tlopt.training.methods import probe
from tlopt.training.network import Pretrained, pretrained
from tlopt.training.unlabelled import Guidance

MODEL, SIZE, TEACHER_SIZE = "pip:efficientnet_lite0", 64, 128
Run = dict[str, Any]
ALONE, LONGER, WITH, MIXED = "labelled alone", "labelled alone, four times as long", "--unlabelled", "with another set"
TEACHER, TEACHER_WITH = "--teacher", "--teacher --unlabelled"
ARMS = (ALONE, WITH, MIXED, TEACHER_WITH, TEACHER, LONGER)


def linked(files: Iterable[tuple[Path, str]], folder: Path) -> None:
    """Link files into a folder under other names."""
    for file, name in files:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(file.resolve())


def drawn(labelled: int, seed: int, whole: ImageFolder) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of so many training images of each class, and of the others."""
    order = np.random.default_rng(seed).permutation(np.flatnonzero(whole.fixed == 0))
    few = np.concatenate([order[whole.labels[order] == k][:labelled] for k in range(len(whole.classes))])
    return few, order[~np.isin(order, few)]


def one(key: Run, data: Path, cache: Path) -> Run:
    """Fine-tune once; return what the card says, the accuracy on the judging part and the time."""
    joining.MOST = key["most"]
    whole = scan(data / "clothing10")
    few, rest = drawn(key["labelled"], key["seed"], whole)
    with tempfile.TemporaryDirectory() as scratch:
        images, others, teacher = (Path(scratch) / name for name in ("labelled", "others", "teacher"))

        def places(positions: np.ndarray, *, named: bool) -> Iterable[tuple[Path, str]]:
            for i in positions.tolist():
                flat = whole.files[i].replace("/", "-")
                yield whole.path / whole.files[i], f"{whole.classes[whole.labels[i]]}/{flat}" if named else f"{i}.jpg"

        linked(places(few, named=True), images)
        linked(places(rest, named=False), others)
        if key["arm"] == MIXED:
            digits = scan(data / "signdigits6")
            chosen = np.random.default_rng(key["seed"]).permutation(len(digits))[: len(rest)]
            linked(((digits.path / digits.files[i], f"digit{i}.jpg") for i in chosen.tolist()), others)
        how: Run = {"epochs": 24} if key["arm"] == LONGER else {}
        if key["arm"] in (WITH, MIXED, TEACHER_WITH):
            how |= {"unlabelled": others, "unlabelled_confidence": key["confidence"]}
        common: Run = {"model": MODEL, "seed": key["seed"], "cache_dir": cache, "val": 0.5, "test": 0.0}
        told: Run = {}
        if key["arm"] in (TEACHER, TEACHER_WITH):
            made = finetune(images, teacher, image_size=TEACHER_SIZE, effort="quick", **common)
            told, how["teacher"] = {"teacher_accuracy": accuracy(made, whole, key["judge"], cache)}, teacher
        started = processor_seconds()
        made = finetune(images, Path(scratch) / "out", image_size=SIZE, **common, **how)
        told["seconds"] = round(processor_seconds() - started, 1)
        told["accuracy"] = accuracy(made, whole, key["judge"], cache)
        metrics = made.card.torch.metrics
    if "unlabelled" in metrics:
        told["unlabelled"] = metrics["unlabelled"]
    kept = ("fine_tuned_share", "candidates", "precision")
    return {"key": key, **told, **{name: metrics[name] for name in kept}}


def answers(labelled: int, seeds: Iterable[int], data: Path, cache: Path) -> list[Run]:
    """Return how many answers of the probe reach a confidence, and how many of those are right, on other draws."""
    network = pretrained(Pretrained(model=MODEL, image_size=SIZE), classes=10, seed=0)
    whole, other = scan(data / "clothing10"), scan(data / "signdigits6")
    found = []
    for folder in (whole.select(np.flatnonzero(whole.fixed == 0)), other):
        pixels = open_pixels(folder, network.preprocess, cache=cache)
        found.append(probe.features(network.module, pixels, device=torch.device("cpu"))[0])
        pixels.close()
    truth, rows = torch.from_numpy(whole.labels[whole.fixed == 0]), []
    for seed in seeds:
        few, rest = (np.searchsorted(np.flatnonzero(whole.fixed == 0), part) for part in drawn(labelled, seed, whole))
        fitted = probe.fit(found[0][few], truth[few], classes=10)
        own, foreign = (torch.softmax(fitted.logits(some), 1).max(1) for some in (found[0][rest], found[1]))
        for least in (0.5, 0.6, 0.7, 0.8, 0.9):
            kept = own.values >= least
            right = (own.indices == truth[rest])[kept].float().mean()
            shares = {"kept": kept.float().mean(), "right": right, "foreign": (foreign.values >= least).float().mean()}
            rows.append({"labelled": labelled, "seed": seed, "confidence": least}
                        | {name: round(float(share), 3) for name, share in shares.items()})  # fmt: skip
    return rows


def accuracy(made: Any, whole: ImageFolder, part: str, cache: Path) -> float:
    """Return the accuracy on a part of the set."""
    judged = whole.split(val=0, test=0, seed=0)[part]  # type: ignore[index]
    pixels = open_pixels(judged, made.card.preprocess, cache=cache)
    logits, labels = predict(sources.open_model(made), pixels, device=torch.device("cpu"))
    pixels.close()
    return float((logits.argmax(1) == labels).mean())


def table(result: Run) -> str:
    """Return the judged runs as a table, means over the seeds."""
    runs = [run for run in result["runs"] if run["key"]["judge"] == "test"]
    alone = {(run["key"]["labelled"], run["key"]["seed"]): run for run in runs if run["key"]["arm"] == ALONE}
    lines = [
        "# What --unlabelled brings and costs", "",
        f"{result['device']}, one thread; torch {result['versions']['torch']}; EfficientNet-Lite0 at {SIZE} px; "
        f"clothing10. `{result['command']}`. Points: test accuracy above the labelled images alone, of the same seed.",
        "", "| labelled | arm | seeds | test accuracy | points | others that took part | seconds |", f"{'|---' * 7}|",
    ]  # fmt: skip
    for labelled, arm in dict.fromkeys((run["key"]["labelled"], run["key"]["arm"]) for run in runs):
        some = [run for run in runs if (run["key"]["labelled"], run["key"]["arm"]) == (labelled, arm)]
        over = [100 * (run["accuracy"] - alone[labelled, run["key"]["seed"]]["accuracy"]) for run in some]
        kept, found = ([run["unlabelled"][what] for run in some if "unlabelled" in run] for what in ("kept", "images"))
        share = f"{statistics.mean(kept):.0f} of {statistics.mean(found):.0f}" if kept else ""
        points = f"{statistics.mean(over):+.1f} ({min(over):+.1f} to {max(over):+.1f})"
        accuracies, seconds = (statistics.mean(run[what] for run in some) for what in ("accuracy", "seconds"))
        row = (f"{labelled} a class", arm, len(some), f"{accuracies:.3f}", points, share, f"{seconds:.0f}")
        lines.append(f"| {' | '.join(map(str, row))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Do the runs that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent
    for option, value in {"arms": "; ".join(ARMS), "seeds": "0,1,2", "labelled": "10", "judge": "test"}.items():
        parser.add_argument(f"--{option}", default=value)
    parser.add_argument("--confidence", type=float, default=Guidance.unlabelled_confidence)
    parser.add_argument("--most", type=float, default=joining.MOST)
    for option, path in {"out": here / "results/unlabelled.json", "data": here.parents[1] / "shared/data"}.items():
        parser.add_argument(f"--{option}", type=Path, default=path)
    parser.add_argument("--answers", action="store_true", help="Look at the answers of the probe only.")
    given = parser.parse_args()
    torch.set_num_threads(1)
    result: Run = json.loads(given.out.read_text()) if given.out.exists() else {"runs": []}
    result |= {"command": "python benchmarks/unlabelled.py", "device": processor(), "versions": versions()}
    with tempfile.TemporaryDirectory() as cache:
        if given.answers:
            result["answers"] = answers(int(given.labelled), map(int, given.seeds.split(",")), given.data, Path(cache))
            write_whole(given.out, (json.dumps(result, indent=1) + "\n").encode())
            return
        for seed in map(int, given.seeds.split(",")):
            for arm in given.arms.split("; "):
                key: Run = {"labelled": int(given.labelled), "arm": arm, "seed": seed, "judge": given.judge}
                key |= {"confidence": given.confidence, "most": given.most}
                if all(run["key"] != key for run in result["runs"]):
                    result["runs"].append(one(key, given.data, Path(cache)))
                    write_whole(given.out, (json.dumps(result, indent=1) + "\n").encode())
                    write_whole(given.out.with_suffix(".md"), table(result).encode())


if __name__ == "__main__":
    main()
