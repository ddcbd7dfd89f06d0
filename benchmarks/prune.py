"""Structured pruning to a measured speed-up, beside Torch-Pruning's magnitude pruner at equal multiply-adds.

    python benchmarks/prune.py --models resnet18,efficientnet_lite0 --seeds 0
    python benchmarks/prune.py --models resnet18,efficientnet_lite0 --criteria

Each network is fine-tuned on clothing10 at 128 px, pruned by ``tlopt prune --speedup``, and cut to the
same multiply-adds by ``torch_pruning.pruner.MagnitudePruner``; both recover in the same way from the
same unpruned network. Accuracy is that of the exported ONNX file on the 372 test photos, time that of
the same file in ONNX Runtime; the pruned network is then quantized to int8 and runs in ONNX Runtime and OpenVINO
against the same unpruned fp32 file. Needs ../shared (photos, ImageNet weights) and, for EfficientNet-Lite0,
the demo extra. Finished artifacts in the work folder are used again; rows already in the results file
stay, so that models and seeds can be added one by one. With ``--criteria`` it compares the criteria
instead: accuracy right after a cut of the same multiply-adds, without any recovery.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_pruning
from pretrained import unpacked

from tlopt import registry
from tlopt.artifact import Artifact, seal
from tlopt.backends import open_runner
from tlopt.environment import cores, processor, versions
from tlopt.images import reopen
from tlopt.images.opening import open_pixels
from tlopt.measure.answers.images import ImagePart, open_part
from tlopt.measure.answers.predictions import answer
from tlopt.measure.speed.machine import machine_state
from tlopt.measure.statistics import paired_drop
from tlopt.networks import weights
from tlopt.pruning import analysis, norms
from tlopt.publishing import draft, write_whole
from tlopt.sources import open_model
from tlopt.stages import prune as stage
from tlopt.stages.export import export
from tlopt.stages.finetune import finetune
from tlopt.stages.quantize import quantize
from tlopt.timing import side_by_side
from tlopt.training.hyperparameters import Hyperparameters
from tlopt.training.inputs import to_inputs
from tlopt.training.loop import train

SHARED = Path(__file__).resolve().parents[2] / "shared"
RESULTS = Path(__file__).parent / "results"
BATCHES = (1, 32)
# name: model, file in ../shared/weights, speed-up asked for
MODELS = {
    "resnet18": ("timm:resnet18", "resnet18.ktb", 2.0),
    "resnet50": ("timm:resnet50", "resnet50.pqf", 2.0),
    "mobilenetv2": ("timm:mobilenetv2_100?pad_type=same", "mobilenetv2_100.coral", 1.5),
    "efficientnet_lite0": ("pip:efficientnet_lite0", "", 1.5),
}
SIZE = 128
RATIOS = (0.2, 0.4, 0.6)  # of the comparison of criteria


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-prune"))
    parser.add_argument("--tuning-epochs", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=4, help="of recovery, ours and Torch-Pruning's")
    parser.add_argument("--lr", type=float, default=2e-4, help="of recovery, ours and Torch-Pruning's")
    parser.add_argument("--criteria", action="store_true", help="compare the criteria without recovery")
    parser.add_argument("--out", type=Path, default=RESULTS / "prune-cpu.json")
    options = parser.parse_args()
    if options.criteria and options.out.name == "prune-cpu.json":
        options.out = RESULTS / "prune-criteria.json"
    options.work.mkdir(parents=True, exist_ok=True)
    for name in options.models.split(","):
        for seed in map(int, options.seeds.split(",")):
            rows = rank(name, seed, options) if options.criteria else measure(name, seed, options)
            write(options, name, seed, rows)
            for row in rows:
                print(json.dumps(row))


def measure(name: str, seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    work = options.work / f"{name}-{seed}"
    model, file, speedup = MODELS[name]
    whole = tuned(work / "whole", model, file, seed, options)
    ours = finished(work / "ours") or stage.prune(
        whole, work / "ours", speedup=speedup, epochs=options.epochs, lr=options.lr, seed=seed
    )
    assert ours.card.torch.macs is not None
    macs = ours.card.torch.macs.after
    peer = finished(work / "peer") or torch_pruning_s(whole, work / "peer", macs, seed, options)
    artifacts = {"unpruned": whole, "tlopt": ours, "torch-pruning": peer}
    exported = {key: finished(work / f"{key}-onnx") or export(a, work / f"{key}-onnx") for key, a in artifacts.items()}
    runs = {key: (artifact, "onnxruntime") for key, artifact in exported.items()}
    for runtime in ("onnxruntime", "openvino"):
        out = work / f"int8-{runtime}"
        runs[f"tlopt, int8, {runtime}"] = finished(out) or quantize(exported["tlopt"], out, for_=runtime), runtime
    photos = open_part(whole)
    answers = {key: answer(artifact, photos, backend=where, keep=True) for key, (artifact, where) in runs.items()}
    times = timed(runs)
    rows = []
    for key in runs:
        artifact = artifacts[key.partition(",")[0]]
        right, reference = answers[key].correct, answers["unpruned"].correct
        low, high = paired_drop(int((reference & ~right).sum()), int((right & ~reference).sum()), len(right))
        row: dict[str, Any] = {
            "model": name, "seed": seed, "pruned_by": key, "recovery_epochs": options.epochs,
            "recovery_lr": options.lr,
            "accuracy": round(float(right.mean()), 4),
            "accuracy_lost": round(float(reference.mean() - right.mean()), 4),
            "accuracy_lost_95": [round(low, 4), round(high, 4)],
            "macs_m": round(analysis.multiply_adds(open_model(artifact), SIZE) / 1e6, 1),
            "parameters_m": round(sum(p.numel() for p in open_model(artifact).parameters()) / 1e6, 2),
        }  # fmt: skip
        for batch in BATCHES:
            row[f"batch_{batch}_ms"] = round(times[key][batch], 3)
            row[f"batch_{batch}_speedup"] = round(times["unpruned"][batch] / times[key][batch], 3)
        if key == "tlopt":
            row["asked_speedup"] = speedup
            row["met"] = (
                all(row[f"batch_{batch}_speedup"] >= speedup for batch in BATCHES) and row["accuracy_lost"] <= 0.01
            )
        rows.append(row)
    return rows


def rank(name: str, seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return each criterion's accuracy on the test photos right after a cut."""
    model, file, _ = MODELS[name]
    whole = tuned(options.work / f"{name}-{seed}" / "whole", model, file, seed, options)
    photos = open_part(whole)
    rows = [{"model": name, "seed": seed, "criterion": "unpruned", "ratio": 0.0, "accuracy": accuracy(whole, photos)}]
    for ratio in RATIOS:
        for criterion in registry.names("criteria"):
            out = options.work / f"{name}-{seed}" / "ranked"
            cut = stage.prune(whole, out, ratio=ratio, criterion=criterion, epochs=0, seed=seed, force=True)
            rows.append(
                {"model": name, "seed": seed, "criterion": criterion, "ratio": ratio, "accuracy": accuracy(cut, photos)}
            )
    return rows


def accuracy(artifact: Artifact, photos: ImagePart) -> float:
    return round(float(answer(artifact, photos, keep=True).correct.mean()), 4)


def tuned(out: Path, model: str, file: str, seed: int, options: argparse.Namespace) -> Artifact:
    if (artifact := finished(out)) is not None:
        return artifact
    return finetune(
        SHARED / "data" / "clothing10", out, model=model, image_size=SIZE, epochs=options.tuning_epochs,
        weights=unpacked(file, SHARED / "weights", options.work), method="full", seed=seed,
    )  # fmt: skip


def finished(path: Path) -> Artifact | None:
    return Artifact.load(path) if path.exists() else None


def torch_pruning_s(whole: Artifact, out: Path, macs: float, seed: int, options: argparse.Namespace) -> Artifact:
    """Cut by Torch-Pruning's group magnitude, the same share of every layer, as near to `macs` as it gets."""
    original = open_model(whole)
    low, high = 0.0, 0.9
    best, nearest = original, math.inf
    for _ in range(10):
        ratio = (low + high) / 2
        candidate = copy.deepcopy(original)
        head = [m for m in candidate.modules() if isinstance(m, torch.nn.Linear)][-1]
        torch_pruning.pruner.MagnitudePruner(
            candidate, torch.zeros(1, 3, SIZE, SIZE), torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio, round_to=8, ignored_layers=[head],
        ).step()  # fmt: skip
        found = analysis.multiply_adds(candidate, SIZE)
        if abs(found - macs) < nearest:
            best, nearest = candidate, abs(found - macs)
        low, high = (low, ratio) if found <= macs else (ratio, high)
    assert whole.card.images is not None
    parts = reopen(whole.card.images)
    pixels, val = (open_pixels(parts[part], whole.card.preprocess).filled() for part in ("train", "val"))
    # Like ours, it starts from batch-norm statistics measured after the cut.
    chosen = np.random.default_rng(seed).permutation(len(pixels))[:256].reshape(-1, 32)
    crops = (np.stack([pixels.crop(i) for i in chunk.tolist()]) for chunk in chosen)
    norms.recalibrate(best, [to_inputs(crop, pixels.preprocess, torch.device("cpu")) for crop in crops])
    settings = Hyperparameters(
        epochs=options.epochs, lr=options.lr, seed=seed, teacher_weight=0.7, backbone_lr=1.0, layer_decay=1.0,
        frozen_norm=True,
    )  # fmt: skip
    train(best, pixels, val, settings, teacher=original, label="Recovery")
    with draft(out) as made:
        groups = weights.save(best, made.folder)
        seal(made, replace(whole.card, details=replace(whole.card.torch, groups=groups)))
    return Artifact.load(out)


def timed(runs: dict[str, tuple[Artifact, str]]) -> dict[str, dict[int, float]]:
    """Return the median time per run, milliseconds, of networks that take turns."""
    found: dict[str, dict[int, float]] = {key: {} for key in runs}
    for batch in BATCHES:
        images = np.random.default_rng(0).standard_normal((batch, 3, SIZE, SIZE), dtype=np.float32)
        runners = {key: open_runner(artifact, backend) for key, (artifact, backend) in runs.items()}
        calls = [functools.partial(runner, images) for runner in runners.values()]
        for key, timing in zip(runs, side_by_side(calls, seconds=4), strict=True):
            found[key][batch] = timing.quantile_ms(0.5)
    return found


def write(options: argparse.Namespace, name: str, seed: int, rows: list[dict[str, Any]]) -> None:
    old = json.loads(options.out.read_text(encoding="utf-8"))["rows"] if options.out.exists() else []
    kept = [row for row in old if (row["model"], row["seed"]) != (name, seed)]
    epochs = "--criteria" if options.criteria else "--epochs ... --lr ..."
    if options.out.name not in ("prune-cpu.json", "prune-criteria.json"):
        epochs += f" --out {options.out}"
    record = {
        "command": "python benchmarks/prune.py --models ... --seeds ... "
        f"--tuning-epochs {options.tuning_epochs} {epochs}",
        "images": f"clothing10 (../shared/data), {SIZE} px, 372 test photos",
        "device": processor(), "cores": cores(), "versions": versions(), "precision": "fp32",
        "timing": "median of 10 turns side by side, 4 s per network and batch size, after warm-up",
        "machine": machine_state(), "written": time.strftime("%Y-%m-%d"), "rows": kept + rows,
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(options.out, json.dumps(record, indent=2) + "\n")
    text = criteria_markdown(record) if options.criteria else markdown(record)
    write_whole(options.out.with_suffix(".md"), text)


def criteria_markdown(record: dict[str, Any]) -> str:
    rows = record["rows"]
    names = list(dict.fromkeys(row["criterion"] for row in rows if row["criterion"] != "unpruned"))
    lines = [
        "# Pruning criteria: accuracy right after the cut, no recovery",
        "",
        f"{record['images']}; batch-norm statistics measured anew on 256 training photos, no training after the cut.",
        "",
        f"    {record['command']}",
        "",
        "| model | seed | multiply-adds removed | unpruned | " + " | ".join(names) + " |",
        "|" + "---|" * (4 + len(names)),
    ]
    found = {(row["model"], row["seed"], row["ratio"], row["criterion"]): row["accuracy"] for row in rows}
    for model, seed, ratio in dict.fromkeys(key[:3] for key in found if key[2]):
        whole = found[model, seed, 0.0, "unpruned"]
        cells = " | ".join(f"{found[model, seed, ratio, name]:.3f}" for name in names)
        lines.append(f"| {model} | {seed} | {ratio:.0%} | {whole:.3f} | {cells} |")
    return "\n".join(lines) + "\n"


def markdown(record: dict[str, Any]) -> str:
    heads = (
        "model",
        "seed",
        "pruned by",
        "epochs of recovery, rate",
        "accuracy",
        "points lost",
        "M multiply-adds",
        "batch 1",
        "batch 32",
        "asked, met",
    )
    lines = [
        "# Structured pruning, CPU",
        "",
        f"{record['images']}. {record['device']}, {record['cores']} cores, ONNX Runtime "
        f"{record['versions'].get('onnxruntime')}, fp32; {record['timing']}.",
        "",
        f"    {record['command']}",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
    ]
    for row in record["rows"]:
        speed = [f"{row[f'batch_{b}_ms']:.2f} ms ({row[f'batch_{b}_speedup']:.2f} x)" for b in BATCHES]
        low, high = (100 * value for value in row["accuracy_lost_95"])
        recovery = f"{row['recovery_epochs']}, {row['recovery_lr']:g}"
        asked = f"{row['asked_speedup']:g} x, {'yes' if row['met'] else 'no'}" if "met" in row else ""
        cells = (
            row["model"], row["seed"], row["pruned_by"], recovery, f"{row['accuracy']:.3f}",
            f"{100 * row['accuracy_lost']:.1f} ({low:.1f} to {high:.1f})", row["macs_m"], *speed, asked,
        )  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
