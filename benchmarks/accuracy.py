"""Test accuracy of the fine-tuning methods, and what each regularizer brings, over seeds.

    python benchmarks/accuracy.py [--sets clothing10,elpv,signdigits6] [--models lite0,resnet18,mobilenetv2]
        [--arms methods,regularizers] [--seeds 0,1,2] [--size 160] [--minutes 5] [--weights DIR]

Each run is a `tlopt finetune` with its defaults and the one change that its arm names, judged on the test split,
which no training sees. A seed decides the split, too, where the set brings none. Runs that the result file
holds already are not repeated, and no run is begun after --minutes, so the table can be completed bit by
bit. clothing10 and signdigits6 are read from ../shared/data; elpv comes from the package elpv-dataset (defective:
probability above one half). ResNet-18 and MobileNetV2 need --weights, a folder of safetensors files.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from tlopt.environment import cores, processor, versions
from tlopt.images import reopen
from tlopt.images.pixels import open_pixels
from tlopt.nn.inputs import predict
from tlopt.sources import open_model
from tlopt.stages.finetune import finetune

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
MODELS: dict[str, tuple[str, str]] = {
    "lite0": ("pip:efficientnet_lite0", ""),
    "resnet18": ("timm:resnet18", "resnet18.ktb.safetensors"),
    "mobilenetv2": ("timm:mobilenetv2_100?pad_type=same", "mobilenetv2_100.coral.safetensors"),
}
ARMS: dict[str, dict[str, dict[str, Any]]] = {
    "methods": {method: {"method": method} for method in ("lp-ft", "head", "full", "gradual")},
    "regularizers": {
        "smoothing 0.1": {"smoothing": 0.1},
        "l2-sp 0.01": {"l2_sp": 0.01},
        "ema 0.98": {"ema": 0.98},
        "mixup 0.2": {"mixup": 0.2},
        "cutmix 1": {"cutmix": 1.0},
        "randaugment": {"policy": "randaugment"},
        "trivialaugment": {"policy": "trivialaugment", "magnitude": 10.0},
        "erasing 0.25": {"erasing": 0.25},
        "dropout 0.2": {"dropout": 0.2},
        "batch norms trained": {"frozen_norm": False},
        "no weight decay": {"weight_decay": 0.0},
        "first 3 stages frozen": {"frozen_stages": 3},
    },
}


def elpv(target: Path) -> Path:
    """Put the solar cells into class folders."""
    import elpv_dataset

    root = Path(elpv_dataset.__file__).parent / "data"
    for line in (root / "labels.csv").read_text(encoding="utf-8").splitlines():
        file, probability, _ = line.split()
        folder = target / ("defective" if float(probability) > 0.5 else "sound")
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / Path(file).name).exists():
            shutil.copy(root / file, folder / Path(file).name)
    return target


def run(
    images: Path, model: str, weights: Path | None, size: int, seed: int, settings: dict[str, Any]
) -> dict[str, Any]:
    """Fine-tune once and return accuracy and time."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        made = finetune(
            images, Path(folder) / "out", model=model, weights=weights, image_size=size, seed=seed, **settings
        )
        seconds = time.perf_counter() - started
        card = made.card
        assert card.images is not None
        test = open_pixels(reopen(card.images)["test"], card.preprocess).filled()
        logits, labels = predict(open_model(made), test, device=torch.device("cpu"))
        test.close()
    metrics = card.details["metrics"]
    return {
        "test_accuracy": float((logits.argmax(1) == labels).mean()),
        "val_accuracy": metrics["validation"]["accuracy"],
        "probe_val_accuracy": metrics.get("probe", {}).get("accuracy"),
        "fine_tuned_share": metrics.get("fine_tuned_share"),
        "seconds": round(seconds, 1),
        "test_images": len(labels),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="clothing10,elpv,signdigits6")
    parser.add_argument("--models", default="lite0")
    parser.add_argument("--arms", default="methods")
    parser.add_argument("--only", default="", help="names of arms to run, of all by default")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--weights", type=Path, default=Path())
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    file = options.out / "finetune-accuracy.json"
    result = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"runs": []}
    done = {json.dumps(entry["key"], sort_keys=True) for entry in result["runs"]}
    only = {name.strip() for name in options.only.split(",") if name.strip()}
    with tempfile.TemporaryDirectory() as folder:
        for seed in map(int, options.seeds.split(",")):
            for name in options.sets.split(","):
                for model in options.models.split(","):
                    arms = {arm: s for group in options.arms.split(",") for arm, s in ARMS[group].items()}
                    for arm, settings in arms.items():
                        key = {
                            "set": name, "model": model, "arm": arm, "seed": seed, "size": options.size,
                            "epochs": options.epochs,
                        }  # fmt: skip
                        known = json.dumps(key, sort_keys=True) in done or (only and arm not in only)
                        if known or time.monotonic() > end:
                            continue
                        images = elpv(Path(folder) / "elpv") if name == "elpv" else SHARED / name
                        source, weights = MODELS[model]
                        given = settings if options.epochs is None else {**settings, "epochs": options.epochs}
                        found = run(
                            images, source, options.weights / weights if weights else None, options.size, seed, given
                        )
                        print(key, found, file=sys.stderr, flush=True)
                        result["runs"].append({"key": key, "settings": given, **found})
                        result |= {
                            "device": processor(), "cores": cores(), "versions": versions(),
                            "command": "python benchmarks/accuracy.py (see its help; filled bit by bit)",
                        }  # fmt: skip
                        options.out.mkdir(parents=True, exist_ok=True)
                        file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
                        file.with_suffix(".md").write_text(markdown(result), encoding="utf-8")
    if file.exists():
        print(file.with_suffix(".md").read_text(encoding="utf-8"))


def markdown(result: dict[str, Any]) -> str:
    """Return the runs as a table: mean and spread over the seeds."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for entry in result["runs"]:
        key = entry["key"]
        groups.setdefault((key["set"], key["model"], key["size"], key["epochs"] or "default", key["arm"]), []).append(
            entry
        )
    lines = [
        "# Test accuracy of the fine-tuning methods", "",
        f"{result['device']}, {result['cores']} cores; torch {result['versions']['torch']}, timm "
        f"{result['versions']['timm']}. `{result['command']}`. Spread: standard deviation over the seeds. Seconds "
        "include decoding where no earlier run had decoded.", "",
        "| set | model | px | epochs | arm | seeds | test accuracy | spread | seconds |",
        "|---|---|---:|---:|---|---:|---:|---:|---:|",
    ]  # fmt: skip
    for (name, model, size, epochs, arm), entries in sorted(groups.items(), key=str):
        scores = [entry["test_accuracy"] for entry in entries]
        spread = f"{statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
        seconds = statistics.median(entry["seconds"] for entry in entries)
        lines.append(
            f"| {name} | {model} | {size} | {epochs} | {arm} | {len(scores)} | {statistics.mean(scores):.3f} "
            f"| {spread} | {seconds:.0f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
