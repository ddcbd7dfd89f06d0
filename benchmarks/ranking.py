"""How well `tlopt rank` foretells which network is the most accurate after fine-tuning.

    python benchmarks/ranking.py --sets clothing10-40,elpv-400 --networks lite0,mobilenetv2 --image-sizes 96,128,160,192
        --epochs 3 [--work build/optimize]

The fine-tuned networks are the unpruned candidates of optimize.py, made by the exhaustive search of that benchmark;
--work is its folder. Each network and size is ranked by a regression on the features of the frozen network. Spearman's
correlation with the test accuracy in fp32 after fine-tuning says how alike the two orders are: 1 is the same order.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from optimize import HERE, SHARED, Bench
from pretrained import NETWORKS

import tlopt
from tlopt.environment import processor, versions
from tlopt.publishing import write_whole


def correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Return Spearman's rank correlation; equal values share the mean of their ranks."""
    first, second = (np.array([_rank(values, value) for value in values]) for values in (one, other))
    return float(np.corrcoef(first, second)[0, 1])


def _rank(values: Sequence[float], value: float) -> float:
    return sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2


def rows(bench: Bench, name: str) -> list[dict[str, Any]]:
    """Return a row for each network and size of a set: what the ranking says of it, and what came of it."""
    report = tlopt.rank(
        bench.images(name), image_sizes=tuple(bench.sizes), seconds=0.2, threads=bench.options.threads,
        cache_dir=bench.cache, **bench.named(),
    )  # fmt: skip
    labels = {NETWORKS[which][0]: which for which in bench.names}
    ranked = {(labels[one["model"]], one["image_size"]): one["features"] for one in report.details["networks"]}
    accuracies = {(labels[str(row["model"])], row["image_size"]): row["accuracy"] for row in report.rows}
    places = [(which, size, width) for which in bench.names for size in bench.sizes for width in bench.widths]
    return [
        {
            "images": name, "network": which, "image_size": size, "rank_accuracy": accuracies[which, size],
            "rank_loss": ranked[which, size]["loss"], "ranked_on": ranked[which, size]["images"],
            "test_accuracy": tried.fp32.test,
        }
        for (which, size, width), tried in zip(places, bench.exhaustive(name), strict=True)
        if width == 1
    ]  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = [
        "# What the ranking of frozen networks is worth", "",
        f"{result['processor']}. `{result['command']}`", "",
        "| images | network | px | regression: accuracy | regression: loss | fine-tuned: test accuracy |",
        "|---|---|---:|---:|---:|---:|",
    ]  # fmt: skip
    lines += [
        f"| {row['images']} | {row['network']} | {row['image_size']} | {row['rank_accuracy']:.3f} | "
        f"{row['rank_loss']:.3f} | {row['test_accuracy']:.3f} |"
        for row in result["rows"]
    ]
    lines += [
        "",
        *(
            f"{name}: Spearman's correlation with the test accuracy is {one['accuracy']:.2f} by accuracy and "
            f"{one['loss']:.2f} by loss.\n"
            for name, one in result["correlation"].items()
        ),
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Rank, and compare with what fine-tuning brought."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="clothing10-40,elpv-400")
    parser.add_argument("--networks", default="lite0,mobilenetv2", help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--image-sizes", default="96,128,160,192")
    parser.add_argument("--widths", default="1,0.7,0.5", help="those of the exhaustive search")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1.0, help="that the exhaustive search timed a candidate for")
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder with the folder weights")
    parser.add_argument("--work", type=Path, default=Path("build/optimize"))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "ranking.json")
    options = parser.parse_args()
    bench = Bench(options)
    found = [row for name in options.sets.split(",") for row in rows(bench, name)]
    correlations = {}
    for name in options.sets.split(","):
        own = [row for row in found if row["images"] == name]
        after = [row["test_accuracy"] for row in own]
        correlations[name] = {
            "accuracy": correlation([row["rank_accuracy"] for row in own], after),
            "loss": correlation([-row["rank_loss"] for row in own], after),
        }
    result = {
        "command": f"python benchmarks/ranking.py --sets {options.sets} --networks {options.networks} --image-sizes "
        f"{options.image_sizes} --widths {options.widths} --epochs {options.epochs}",
        "processor": processor(), "versions": versions(), "correlation": correlations, "rows": found,
    }  # fmt: skip
    write_whole(options.out, json.dumps(result, indent=1) + "\n")
    write_whole(options.out.with_suffix(".md"), table(result))
    print(table(result))


if __name__ == "__main__":
    main()
