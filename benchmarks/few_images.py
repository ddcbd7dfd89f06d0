"""Which share of the fine-tuned weights does best where training images are very few.

    python benchmarks/few_images.py [--kinds 2x60,4x30,2x30,4x50] [--most 34,8,8,8] [--size 96] [--effort default]
        [--data ../shared/data] [--out …]

"2x60" is two classes of clothing10 with up to 60 training images each, 15 % of which validate. Other images of the same
classes are the test. Images that benchmarks/effort.py tests on are left out. The classes are drawn by chance, the same
ones each time. A share of 1 is the fine-tuned network, 0 the probe, and others are means of their weights. "regression"
is the frozen network with a regression on all training images (--effort quick --folds 5). Runs that the result file
holds already are not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from effort import MODEL, MOST

from tlopt import sources
from tlopt.environment import processor, versions
from tlopt.images import ImageFolder, scan
from tlopt.images.opening import open_pixels
from tlopt.networks import weights
from tlopt.publishing import write_whole
from tlopt.stages.finetune import finetune
from tlopt.training.inputs import predict
from tlopt.training.methods import selection

HERE = Path(__file__).resolve().parent
JUDGED = 40  # images of each class that effort.py trains on; it tests on others
LEFT = 15  # images of each class for the test, at least
Run = dict[str, Any]


def unseen(whole: ImageFolder) -> np.ndarray:
    """Return the positions of the images that no test of effort.py holds."""
    used = np.zeros(len(whole), bool)
    for seed in (0, 1, 2):
        order = np.random.default_rng(seed).permutation(len(whole))
        few = np.concatenate([order[whole.labels[order] == k][:JUDGED] for k in range(len(whole.classes))])
        used[order[~np.isin(order, few)][:MOST]] = True
    return np.flatnonzero(~used)


def linked(whole: ImageFolder, classes: tuple[int, ...], per_class: int, folder: Path) -> Path:
    """Link some images of some classes into a train part, and the others into a test part."""
    order = np.random.default_rng(7).permutation(unseen(whole))
    for k in classes:
        own = order[whole.labels[order] == k]
        count = min(per_class, len(own) - LEFT)
        for part, chosen in (("train", own[:count]), ("test", own[count:])):
            for i in chosen.tolist():
                file = folder / part / whole.classes[k] / whole.files[i].replace("/", "-")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.symlink_to((whole.path / whole.files[i]).resolve())
    return folder


def one(whole: ImageFolder, classes: tuple[int, ...], per_class: int, options: argparse.Namespace) -> Run:
    """Fine-tune once, and judge each share of what came out on the test."""
    kept: list[tuple[Any, Any]] = []
    real = selection.select

    def select(model: torch.nn.Module, start: Any, *more: Any, **named: Any) -> Any:
        kept.append((dict(start), weights.snapshot(model, "cpu")))
        return real(model, start, *more, **named)

    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        images = linked(whole, classes, per_class, work / "set")
        more = {"model": MODEL, "image_size": options.size, "seed": 0, "cache_dir": work / "cache"}
        selection.select = select
        try:
            made = finetune(images, work / "tuned", effort=options.effort, **more)
        finally:
            selection.select = real
        regression = finetune(images, work / "regression", effort="quick", folds=5, **more)
        test = open_pixels(scan(images).split(val=0, test=0, seed=0)["test"], made.card.preprocess, cache_gb=0)
        with_these, (start, tuned) = sources.open_model(made), kept[0]
        shares = {}
        for share in selection.SHARES:
            weights.load(with_these, selection.mean(start, tuned, share))
            shares[f"{share:g}"] = _accuracy(with_these, test)
        metrics = made.card.torch.metrics
        return {
            "classes": list(classes), "shares": shares, "regression": _accuracy(sources.open_model(regression), test),
            "test_images": len(test), "validation_images": metrics["validation"]["images"],
            "validation": {f"{c['share']:g}": round(c["accuracy"], 4) for c in metrics["candidates"]},
        }  # fmt: skip


def _accuracy(model: torch.nn.Module, images: Any) -> float:
    logits, labels = predict(model, images, device=torch.device("cpu"))
    return round(float((logits.argmax(1) == labels).mean()), 4)


def table(result: dict[str, Any]) -> str:
    """Return the means over the draws, and how often and how far each share is below the regression."""
    names = [f"{share:g}" for share in selection.SHARES]
    lines = [
        "# Shares of the fine-tuned weights where images are very few", "",
        f"{result['device']}, one thread. Mean test accuracy. Brackets: difference from share 1, with its standard "
        "error. Below: runs below the regression on all training images, and the sum of the points.", "",
        f"    {result['command']}", "",
        f"| classes x images, runs | regression | {' | '.join(f'share {name}' for name in names)} |",
        f"|---{'|--:' * (len(names) + 1)}|",
    ]  # fmt: skip
    for kind, runs in result["runs"].items():
        cells = [f"{kind}, {len(runs)} runs", f"{statistics.mean(run['regression'] for run in runs):.3f}"]
        for name in names:
            own = [run["shares"][name] for run in runs]
            apart = [run["shares"][name] - run["shares"]["1"] for run in runs]
            below = [run["shares"][name] - run["regression"] for run in runs]
            missed = [gap for gap in below if gap < 0]
            error = statistics.stdev(apart) / len(apart) ** 0.5 if len(apart) > 1 else 0.0
            extra = f" ({100 * statistics.mean(apart):+.1f} ± {100 * error:.1f})" if name != "1" else ""
            cells.append(f"{statistics.mean(own):.3f}{extra}; below {len(missed)}, {100 * sum(missed):.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Do the runs that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default="2x60,4x30,2x30,4x50")
    parser.add_argument("--most", default="34,8,8,8", help="runs of each kind")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--effort", default="default")
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared" / "data")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "few-images.json")
    options = parser.parse_args()
    runs: dict[str, list[Run]] = json.loads(options.out.read_text())["runs"] if options.out.exists() else {}
    whole = scan(options.data / "clothing10")
    for kind, most in zip(options.kinds.split(","), map(int, options.most.split(",")), strict=True):
        count, per_class = map(int, kind.split("x"))
        draws = list(itertools.combinations(range(len(whole.classes)), count))
        np.random.default_rng(5).shuffle(draws)
        for classes in draws[:most]:
            done = runs.setdefault(kind, [])
            if any(run["classes"] == [int(k) for k in classes] for run in done):
                continue
            done.append(one(whole, tuple(int(k) for k in classes), per_class, options))
            result = {
                "command": f"python benchmarks/few_images.py --kinds {options.kinds} --most {options.most} "
                f"--size {options.size} --effort {options.effort}",
                "device": processor(), "versions": versions(), "runs": runs,
            }  # fmt: skip
            write_whole(options.out, json.dumps(result, indent=1) + "\n")
            write_whole(options.out.with_suffix(".md"), table(result))


if __name__ == "__main__":
    main()
