"""Whether training in bf16 costs accuracy: each set and seed is fine-tuned in both precisions, and judged once.

    python benchmarks/precisions.py [--sets A,B] [--seeds 0,1,2] [--size 96] [--data ../shared/data]

Sets are written as in effort.py: "clothing10-40" has 40 images of each class of clothing10 to train and choose on. The
model is EfficientNet-Lite0. Runs that the result file holds already are not repeated. The device is that which
`tlopt finetune` takes: a GPU where there is one.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import effort
import torch

from tlopt.environment import processor
from tlopt.publishing import write_whole
from tlopt.training.distributed import device

PRECISIONS = ("fp32", "bf16")
effort.ARMS.update({name: {"precision": name} for name in PRECISIONS})


def where() -> str:
    """Return the device that trains."""
    return torch.cuda.get_device_name() if device().type == "cuda" else processor()


def table(result: dict[str, Any]) -> str:
    """Return a row for each set: the mean of both, and the difference of bf16 to fp32 seed by seed."""
    found = {(run["device"], run["torch"], *run["key"].values()): run["test_accuracy"] for run in result["runs"]}
    lines = [
        "# Fine-tuning in bf16 and in fp32", "",
        f"EfficientNet-Lite0, defaults. `{result['command']}`. Points: bf16 less fp32, the mean over the seeds with "
        "its standard error.", "",
        "| device | torch | set | px | seeds | test images | fp32 | bf16 | points | each seed |", f"{'|---' * 10}|",
    ]  # fmt: skip
    kinds = dict.fromkeys(key[:4] for key in found)
    for kind in kinds:
        seeds = [
            seed for *of, arm, seed in found if tuple(of) == kind and arm == "bf16" and (*kind, "fp32", seed) in found
        ]
        if not seeds:
            continue
        fp32, bf16 = ([found[*kind, arm, seed] for seed in seeds] for arm in PRECISIONS)
        points = [100 * (b - a) for a, b in zip(fp32, bf16, strict=True)]
        error = statistics.stdev(points) / math.sqrt(len(points)) if len(points) > 1 else float("nan")
        images = next(r["test_images"] for r in result["runs"] if r["key"]["set"] == kind[2])
        row = (*kind, len(seeds), images, f"{statistics.mean(fp32):.3f}", f"{statistics.mean(bf16):.3f}")
        each = ", ".join(f"{value:+.1f}" for value in points)
        lines.append(f"| {' | '.join(map(str, row))} | {statistics.mean(points):+.1f} ± {error:.1f} | {each} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Do the runs that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent
    parser.add_argument("--sets", default="clothing10-40,signdigits6-30,elpv-100")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--out", type=Path, default=here / "results/precisions.json")
    parser.add_argument("--data", type=Path, default=here.parents[1] / "shared/data")
    given = parser.parse_args()
    result: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {"runs": []}
    result |= {"command": "python benchmarks/precisions.py"}
    for name in given.sets.split(","):
        for seed in map(int, given.seeds.split(",")):
            for precision in PRECISIONS:
                key = {"set": name, "size": given.size, "arm": precision, "seed": seed}
                if any(run["key"] == key and run["device"] == where() for run in result["runs"]):
                    continue
                result["runs"].append({"device": where(), "torch": torch.__version__, **effort.one(key, [given.data])})
                write_whole(given.out, (json.dumps(result, indent=1) + "\n").encode())
                write_whole(given.out.with_suffix(".md"), table(result).encode())


if __name__ == "__main__":
    main()
