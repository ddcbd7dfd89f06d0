"""How soon a set of 100,000 images trains, and how much memory it takes.

    python benchmarks/scale.py [--images 100000] [--methods lp-ft,full] [--steps 40] [--folder DIR] [--out FILE]

Writes a folder of JPEGs of 64 px in ten classes, each with content of its own, and starts `tlopt finetune` on it with
its defaults (EfficientNet-Lite0 at 224 px), each method in a fresh process with an empty cache, for some steps. Times
are from the clock and from the processor (of all threads): on a busy machine the latter, divided by the cores, says
what an idle one would need at best. Memory is the highest resident size of the process. Most of it is the network with
its activations and the libraries, so each method is run once more on the first 2,000 images, all else being the same:
the difference is what the images take. --folder keeps the images for the next time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tlopt.environment import cores, processor, versions
from tlopt.publishing import write_whole

MODEL = "pip:efficientnet_lite0"
CLASSES = 10
SIDE = 64


def write_images(root: Path, count: int) -> None:
    """Write JPEGs with a color for each class and blotches of their own."""

    def write(i: int) -> None:
        random = np.random.default_rng(i)
        blotches = random.integers(0, 120, (8, 8, 3)) + 13 * (i % CLASSES)
        image = Image.fromarray(blotches.astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        image.save(root / f"class{i % CLASSES}" / f"{i:06}.jpg", quality=85)

    for k in range(CLASSES):
        (root / f"class{k}").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(cores()) as pool:
        for _ in pool.map(write, range(count), chunksize=500):
            pass


def peak_mb() -> float:
    """Return the highest resident size of this process so far, 10^6 bytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024 / 1e6


class Stop(BaseException):
    """Ends the training."""


def start(root: Path, method: str, steps: int) -> dict[str, Any]:
    """Scan, digest and train for some steps; return seconds and memory by part."""
    from tlopt import progress, sources
    from tlopt.images import scan
    from tlopt.stages.finetune import finetune

    marks: list[tuple[str, float, float, float]] = []

    def mark(name: str) -> None:
        marks.append((name, time.perf_counter(), time.process_time(), peak_mb()))

    @contextmanager
    def display(label: str, total: int) -> Iterator[Any]:  # noqa: ARG001 - part of the protocol
        class Bar:
            done = 0

            def advance(self, count: int = 1, note: str = "") -> None:  # noqa: ARG002 - part of the protocol
                if label == "Training":
                    Bar.done += count
                    if Bar.done in (1, steps):
                        mark("first step" if Bar.done == 1 else "last step")
                    if Bar.done >= steps:
                        raise Stop

        yield Bar()
        mark(label)

    # What a process needs for this network without any images.
    sources.load(MODEL, classes=CLASSES)
    mark("model")
    folder = scan(root)
    mark("scan")
    assert folder.digest
    mark("digest")
    progress.display.set(display)
    with tempfile.TemporaryDirectory(dir=root.parent) as scratch, suppress(Stop):
        finetune(folder, Path(scratch) / "out", model=MODEL, method=method, cache_dir=Path(scratch) / "cache")
    at = {name: (wall, cpu, peak) for name, wall, cpu, peak in marks}

    def between(first: str, last: str) -> dict[str, float]:
        return {
            "seconds": round(at[last][0] - at[first][0], 2),
            "processor_seconds": round(at[last][1] - at[first][1], 2),
        }

    probed = "Features of validation images" in at
    return {
        "method": method,
        "images": len(folder),
        "scan": between("model", "scan"),
        "digest": between("scan", "digest"),
        "features_of_the_part_probed": between("digest", "Features of validation images") if probed else None,
        "regression": between("Features of validation images", "Fitting the probe") if probed else None,
        "scan_to_first_step": between("scan", "first step"),
        "steps": steps,
        "steps_after_the_first": between("first step", "last step"),
        "peak_mb": {
            "model loaded": round(at["model"][2]),
            "images digested": round(at["digest"][2]),
            "first step": round(at["first step"][2]),
            "last step": round(at["last step"][2]),
        },
    }


def measured(method: str, folder: Path, steps: int) -> dict[str, Any]:
    """Return what `start` returns in a fresh process."""
    command = [sys.executable, __file__, "--one", method, "--folder", str(folder), "--steps", str(steps)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def first_images(root: Path, target: Path, count: int = 2000) -> Path:
    """Copy the first images of each class."""
    for folder in root.iterdir():
        (target / folder.name).mkdir(parents=True, exist_ok=True)
        for file in sorted(folder.iterdir())[: count // CLASSES]:
            shutil.copyfile(file, target / folder.name / file.name)
    return target


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    rows = result["runs"]
    lines = [
        f"# {rows[0]['images']:,} images",
        "",
        f"`{result['command']}` · {result['processor']}, {result['cores']} cores · torch {result['versions']['torch']}",
        f"· load before {result['load_before']:.1f} (other work; processor seconds divided by the cores are what",
        "an idle machine would take at best)",
        "",
        "| s (processor s) | " + " | ".join(row["method"] for row in rows) + " |",
        "|---|" + "---|" * len(rows),
    ]
    for key, name in (
        ("scan", "scan"),
        ("digest", "digest of all files"),
        ("features_of_the_part_probed", "load, features of the part probed"),
        ("regression", "regression"),
        ("scan_to_first_step", "**scan to the end of the first step**"),
    ):
        cells = [f"{row[key]['seconds']} ({row[key]['processor_seconds']})" if row[key] else "-" for row in rows]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for key in rows[0]["peak_mb"]:
        lines.append(f"| peak memory until: {key}, MB | " + " | ".join(str(row["peak_mb"][key]) for row in rows) + " |")
    few = [f"{row['peak_mb_of_2000_images']['last step']}" for row in rows]
    lines.append("| the same with 2,000 images, MB | " + " | ".join(few) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--methods", default="lp-ft,full")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "scale.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(start(arguments.folder, arguments.one, arguments.steps)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        root = arguments.folder or Path(scratch) / "images"
        if not root.exists():
            write_images(root, arguments.images)
        load = os.getloadavg()[0]
        runs = []
        for method in arguments.methods.split(","):
            run, few = (
                measured(method, folder, arguments.steps)
                for folder in (root, first_images(root, Path(scratch) / "few"))
            )
            runs.append({**run, "peak_mb_of_2000_images": few["peak_mb"]})
            print(json.dumps(runs[-1], indent=1))
    result = {
        "command": f"python benchmarks/scale.py --images {arguments.images}",
        "processor": processor(),
        "cores": cores(),
        "load_before": round(load, 2),
        "versions": versions(),
        "model": MODEL,
        "runs": runs,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(arguments.out, json.dumps(result, indent=1) + "\n")
    write_whole(arguments.out.with_suffix(".md"), table(result))


if __name__ == "__main__":
    main()
