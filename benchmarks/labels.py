"""How many wrong labels `tlopt data audit` finds, and how many of those it suspects are wrong.

    python benchmarks/labels.py [--sets clothing10,elpv,signdigits6] [--share 0.05] [--seeds 0,1,2] [--out FILE]

A share of the labels, drawn at random, is replaced by another class at random; then the check that the audit uses
looks for them. "found" is the share of the flipped labels among the suspects (recall), "right" the share of the
suspects that were flipped (precision), "named" the share of the found for which the original class was suggested.
Beside it stands what a user would do without confident learning: all images for which the same out-of-fold classifier
prefers another class. Labels that were wrong in the set itself count as false alarms. clothing10 and signdigits6 are
read from ../shared/data, all parts together; elpv comes from the package elpv-dataset, those cells only whose label
its authors are sure of. Sets that the result file holds already and are not named stay in it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tlopt.data import duplicates, labels
from tlopt.data.inspection import inspect_all
from tlopt.environment import cores, processor, versions
from tlopt.images import scan
from tlopt.publishing import write_whole

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
MODEL = "pip:efficientnet_lite0"


def elpv(target: Path) -> Path:
    """Put the solar cells that are surely sound or surely defective into class folders."""
    import elpv_dataset

    root = Path(elpv_dataset.__file__).parent / "data"
    for line in (root / "labels.csv").read_text(encoding="utf-8").splitlines():
        file, probability, _ = line.split()
        if float(probability) in (0.0, 1.0):
            folder = target / ("defective" if float(probability) == 1 else "sound")
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / file, folder / Path(file).name)
    return target


def flipped(truth: np.ndarray, classes: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels of which a share is another class, and which rows those are."""
    random = np.random.default_rng(seed)
    rows = random.choice(len(truth), round(share * len(truth)), replace=False)
    given = truth.copy()
    given[rows] = (given[rows] + random.integers(1, classes, len(rows))) % classes
    return given, rows


def scores(suspected: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    """Return number of suspects, recall and precision."""
    hits = np.isin(suspected, rows).sum()
    return {
        "suspects": len(suspected),
        "found": round(float(hits / len(rows)), 3),
        "right": round(float(hits / max(1, len(suspected))), 3),
    }


def measure(name: str, root: Path, share: float, seeds: list[int]) -> dict[str, Any]:
    """Return what the check finds in a set as it is, and in copies with flipped labels."""
    folder = scan(root)
    groups = duplicates.find(inspect_all(folder), similarity=0.95).groups
    started = time.perf_counter()
    kept, values = labels.features(folder, MODEL)
    seconds = time.perf_counter() - started
    truth, groups, classes = folder.labels[kept], groups[kept], len(folder.classes)
    runs = []
    for seed in seeds:
        given, rows = flipped(truth, classes, share, seed)
        found = labels.judge(given, values, groups, classes=classes, seed=seed)
        suspected = np.array([suspect.index for suspect in found], dtype=np.int64)
        named = [suspect.suggestion == truth[suspect.index] for suspect in found if suspect.index in set(rows.tolist())]
        plain = labels.out_of_fold(values, given, groups, classes, seed).argmax(1)
        runs.append(
            {
                "seed": seed,
                "flipped": len(rows),
                "audit": scores(suspected, rows) | {"named": round(float(np.mean(named)), 3) if named else None},
                "first": scores(suspected[: len(rows) // 2], rows),
                "disagreement": scores(np.flatnonzero(plain != given), rows),
            }
        )
    untouched = labels.judge(truth, values, groups, classes=classes, seed=0)
    return {
        "set": name,
        "images": len(truth),
        "classes": classes,
        "share": share,
        "suspects_as_it_is": len(untouched),
        "feature_seconds": round(seconds, 1),
        "runs": runs,
    }


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown: means over the seeds."""
    lines = [
        "# Wrong labels",
        "",
        f"`{result['command']}` · means of {len(result['sets'][0]['runs'])} seeds · {result['processor']}",
        "",
        "| set | images | flipped | suspects | of the flipped, found | of the suspects, flipped | of those listed "
        "first | right class named | without confident learning: found, flipped | suspects in the set as it is |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]

    def mean(found: dict[str, Any], arm: str, key: str) -> float:
        return float(np.mean([run[arm][key] for run in found["runs"]]))

    for found in result["sets"]:
        lines.append(
            f"| {found['set']} | {found['images']} | {found['runs'][0]['flipped']} "
            f"| {mean(found, 'audit', 'suspects'):.0f} "
            f"| {mean(found, 'audit', 'found'):.0%} | {mean(found, 'audit', 'right'):.0%} "
            f"| {mean(found, 'first', 'right'):.0%} | {mean(found, 'audit', 'named'):.0%} "
            f"| {mean(found, 'disagreement', 'found'):.0%}, {mean(found, 'disagreement', 'right'):.0%} "
            f"| {found['suspects_as_it_is']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="clothing10,elpv,signdigits6")
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "labels.json")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    found = json.loads(arguments.out.read_text(encoding="utf-8"))["sets"] if arguments.out.exists() else []
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.sets.split(","):
            if name == "elpv":
                root = elpv(Path(scratch) / name)
            else:
                root = shutil.copytree(SHARED / name, Path(scratch) / name)
            found = [one for one in found if one["set"] != name] + [measure(name, root, arguments.share, seeds)]
            print(json.dumps(found[-1], indent=1), flush=True)
    result = {
        "command": f"python benchmarks/labels.py --share {arguments.share:g} --seeds {arguments.seeds}",
        "processor": processor(),
        "cores": cores(),
        "versions": versions(),
        "model": MODEL,
        "sets": found,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(arguments.out, json.dumps(result, indent=1) + "\n")
    write_whole(arguments.out.with_suffix(".md"), table(result))


if __name__ == "__main__":
    main()
