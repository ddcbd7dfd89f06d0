"""Draw the committed results of quantize.py and prune.py: what is lost against what is gained.

    python benchmarks/plots.py

Reads prune-cpu*.json and those of quantize.py in benchmarks/results; writes an SVG beside each.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
BATCHES = ("1", "32")
MARKERS = {"tlopt": "o", "torch-pruning": "X", "tlopt, int8, onnxruntime": "^", "tlopt, int8, openvino": "s"}
PEERS = {"ORT quantize_static": "tab:orange", "NNCF": "tab:green", "tlopt": "tab:blue"}


def main() -> None:
    mpl.rcParams["svg.hashsalt"] = "tlopt"  # the same file from the same figures
    for file in sorted(RESULTS.glob("prune-cpu*.json")):
        save(pruned(json.loads(file.read_text(encoding="utf-8"))), file)
    for file in sorted(RESULTS.glob("quantize-*.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        if "latency_ms" in result["rows"][0]:  # what is timed: not the memory, nor the noise
            save(quantized(result), file)


def save(figure: Figure, file: Path) -> None:
    figure.savefig(file.with_suffix(".svg"), metadata={"Date": None})
    print(file.with_suffix(".svg"))


def pruned(result: dict[str, Any]) -> Figure:
    """Draw points lost against the speed-up over unpruned fp32: a point a seed, one panel a batch size."""
    models = list(dict.fromkeys(row["model"] for row in result["rows"]))
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for batch, axes in zip(BATCHES, figure.subplots(1, 2, sharey=True), strict=True):
        for number, model in enumerate(models):
            for way, marker in MARKERS.items():
                rows = [row for row in result["rows"] if (row["model"], row["pruned_by"]) == (model, way)]
                axes.scatter(
                    [row[f"batch_{batch}_speedup"] for row in rows], [100 * row["accuracy_lost"] for row in rows],
                    marker=marker, color=f"C{number}", alpha=0.8, label=f"{model}, {way}" if batch == "1" else None,
                )  # fmt: skip
        axes.axhline(1, color="grey", linewidth=0.8, linestyle="--")
        axes.set_title(f"batch {batch}")
        axes.set_xlabel("times as fast as unpruned fp32")
        axes.set_yscale("symlog", linthresh=2)
        axes.set_yticks([-2, -1, 0, 1, 2, 5, 10, 20, 40], labels=["-2", "-1", "0", "1", "2", "5", "10", "20", "40"])
    figure.axes[0].set_ylabel("points of test accuracy lost")
    figure.suptitle(f"Pruned, {result['device']}")
    figure.legend(loc="outside right upper", fontsize=7)
    return figure


def quantized(result: dict[str, Any]) -> Figure:
    """Draw the share of labels changed against latency: a point for each way and runtime, one panel a batch size."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    fp32 = [row for row in result["rows"] if row["name"] == "fp32"]
    for batch, axes in zip(BATCHES, figure.subplots(1, 2, sharey=True), strict=True):
        for peer, color in PEERS.items():
            for runtime, marker in (("onnxruntime", "^"), ("openvino", "s")):
                rows = [r for r in result["rows"] if r["name"].startswith(peer) and r["runtime"] == runtime]
                rows = [r for r in rows if r["latency_ms"]]
                if rows:
                    axes.scatter(
                        [row["latency_ms"][batch] for row in rows], [100 * row["flips"] for row in rows],
                        color=color, marker=marker, alpha=0.7, label=f"{peer}, {runtime}",
                    )  # fmt: skip
        axes.axvline(
            min(r["latency_ms"][batch] for r in fp32), color="grey", linewidth=0.8, linestyle="--", label="fp32"
        )
        axes.set_title(f"batch {batch}")
        axes.set_xlabel("milliseconds (median)")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
    figure.axes[0].set_ylabel("labels changed against fp32, %")
    figure.axes[0].legend(fontsize=7)
    figure.suptitle(f"int8, {result['model']}: {result['judged']} photos judged")
    return figure


if __name__ == "__main__":
    main()
