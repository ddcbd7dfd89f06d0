"""Speed of full fine-tuning beside timm's pieces, fastai and a plain torchvision loop, in one run.

    python benchmarks/finetune.py [--images ../shared/data/clothing10] [--size 160] [--rounds 3] [--number 320]
    python benchmarks/finetune.py --precisions [--size 128] [--batch 16]

Every contestant trains all layers of EfficientNet-Lite0 with its ImageNet weights, from the same photos on
disk, with random crops and mirroring, in a process of its own: one epoch to warm up (tlopt decodes then),
one that is timed. Contestants take turns, so that what else the machine does hits all alike; the
figures are medians over the rounds. "default" is how the library's users run it (channels first, its own
loader), "tuned" adds channels last. fastai takes part where it is installed. Peak memory is that of the process
and its loader workers together.

With `--precisions` it shows which precision `--precision auto` takes for some networks, and the times it goes by.
oneDNN, which computes torch's convolutions, is kept to the instructions of older processors for it. The weights are
random, which changes no time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tlopt import sources
from tlopt.environment import cores, processor, versions
from tlopt.images import scan
from tlopt.networks import vision_ops
from tlopt.publishing import write_whole
from tlopt.training.hyperparameters import Hyperparameters

vision_ops.declare()  # torchvision does not import beside a CPU-only torch without

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "clothing10"
MODEL = "pip:efficientnet_lite0"
BATCH = 32
LR = 1e-3
NETWORKS = ("tf_efficientnet_lite0", "mobilenetv2_100", "resnet18", "resnet50")  # timm's names
# oneDNN's names of what a processor can do, from this one's down to one without bf16.
ABILITIES = {"DEFAULT": "all of this processor's", "AVX512_CORE_BF16": "AVX512-BF16, no AMX", "AVX512_CORE": "AVX512"}


def tlopt_full(root: Path, size: int, *, frozen_norm: bool = True) -> float:
    """Return seconds of an epoch of tlopt's own loop, without its validation."""
    from tlopt.images.opening import open_pixels
    from tlopt.training.loop import train

    folder = scan(root)
    network, preprocess = sources.load(MODEL, classes=len(folder.classes), size=size)
    with tempfile.TemporaryDirectory() as cache:
        images = open_pixels(folder, preprocess, cache=Path(cache)).filled()
        few = open_pixels(folder.select(range(0, len(folder), len(folder) // 20)), preprocess, cache_gb=0).filled()
        history = train(network, images, few, Hyperparameters(epochs=2, batch=BATCH, lr=LR, frozen_norm=frozen_norm))
        with contextlib.closing(images), contextlib.closing(few):
            return history.epochs[1]["seconds"]


def tlopt_head(root: Path, size: int) -> float:
    """Return seconds of tlopt's whole head method: decoding, features and regression."""
    from tlopt.images.opening import open_pixels
    from tlopt.training.methods import probe

    folder = scan(root)
    network, preprocess = sources.load(MODEL, classes=len(folder.classes), size=size)
    started = time.perf_counter()
    with contextlib.closing(open_pixels(folder, preprocess, cache_gb=0)) as images:
        inputs, labels = probe.features(network, images, device=torch.device("cpu"))
        probe.fold(network, probe.fit(inputs, torch.from_numpy(labels), classes=len(folder.classes)))
    return time.perf_counter() - started


def _loop(network: torch.nn.Module, loader: Any, *, channels_last: bool) -> float:
    """Return seconds of the second epoch of a plain training loop."""
    if channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), lr=LR, momentum=0.9, weight_decay=1e-4)
    loss = torch.nn.CrossEntropyLoss()
    network.train()
    seconds = 0.0
    for _ in range(2):
        started = time.perf_counter()
        for inputs, labels in loader:
            if channels_last:
                inputs = inputs.to(memory_format=torch.channels_last)
            loss(network(inputs), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        seconds = time.perf_counter() - started
    return seconds


def torchvision_loop(root: Path, size: int, *, channels_last: bool = False) -> float:
    """Return seconds of an epoch of the loop in torchvision's transfer-learning tutorial."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    network, preprocess = sources.load(MODEL, classes=len(scan(root).classes), size=size)
    steps = [transforms.RandomResizedCrop(size, (0.5, 1)), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    transform = transforms.Compose([*steps, transforms.Normalize(preprocess.mean, preprocess.std)])
    loader = torch.utils.data.DataLoader(
        ImageFolder(str(root), transform), batch_size=BATCH, shuffle=True, num_workers=cores(), drop_last=True
    )
    return _loop(network, loader, channels_last=channels_last)


def timm_loop(root: Path, size: int, *, channels_last: bool = False) -> float:
    """Return seconds of an epoch with timm's dataset, loader and transforms, as its train.py puts them together."""
    from timm.data import create_dataset, create_loader

    network, preprocess = sources.load(MODEL, classes=len(scan(root).classes), size=size)
    loader = create_loader(
        create_dataset("", root=str(root)), input_size=(3, size, size), batch_size=BATCH, is_training=True,
        use_prefetcher=False, scale=(0.5, 1), hflip=0.5, color_jitter=None, interpolation="bicubic",
        mean=preprocess.mean, std=preprocess.std, num_workers=cores(), device=torch.device("cpu"), pin_memory=False,
    )  # fmt: skip
    return _loop(network, loader, channels_last=channels_last)


def fastai_loop(root: Path, size: int, *, channels_last: bool = False) -> float:
    """Return seconds of the second unfrozen epoch of fastai's Learner, without its validation."""
    from fastai.vision.all import (
        Callback,
        ChannelsLast,
        ImageDataLoaders,
        Learner,
        Normalize,
        RandomResizedCrop,
        aug_transforms,
    )

    network, preprocess = sources.load(MODEL, classes=len(scan(root).classes), size=size)
    normalize = Normalize.from_stats(preprocess.mean, preprocess.std, cuda=False)
    loaders = ImageDataLoaders.from_folder(
        root, valid_pct=0.02, seed=0, bs=BATCH, num_workers=cores(), item_tfms=RandomResizedCrop(size, min_scale=0.5),
        batch_tfms=[*aug_transforms(max_rotate=0, max_lighting=0, max_warp=0, max_zoom=1), normalize], device="cpu",
    )  # fmt: skip
    seconds: list[float] = []

    class Watch(Callback):  # type: ignore[misc]
        def before_train(self) -> None:
            self.started = time.perf_counter()

        def after_train(self) -> None:
            seconds.append(time.perf_counter() - self.started)

    learner = Learner(loaders, network, loss_func=torch.nn.CrossEntropyLoss(), cbs=[Watch()])
    if channels_last:
        learner.add_cb(ChannelsLast())
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(2, LR)
    return seconds[-1]


CONTESTANTS: dict[str, Callable[[Path, int], float]] = {
    "tlopt full (batch norms frozen, its default)": tlopt_full,
    "tlopt full (batch norms trained)": lambda root, size: tlopt_full(root, size, frozen_norm=False),
    "timm default": timm_loop,
    "timm tuned": lambda root, size: timm_loop(root, size, channels_last=True),
    "torchvision default": torchvision_loop,
    "torchvision tuned": lambda root, size: torchvision_loop(root, size, channels_last=True),
    "fastai default": fastai_loop,
    "fastai tuned": lambda root, size: fastai_loop(root, size, channels_last=True),
    "tlopt head (all of it)": tlopt_head,
}


def compete(name: str, root: Path, size: int) -> dict[str, float]:
    """Run one contestant in this process."""
    torch.manual_seed(0)
    seconds = CONTESTANTS[name](root, size)
    # Linux counts in KiB; of the workers, only the largest is known.
    peak = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"images_per_s": len(scan(root)) / seconds, "seconds": seconds, "peak_mb": peak * 1024 / 1e6}


def tried(network: str, root: Path, size: int, batch: int) -> dict[str, Any]:
    """Return what the start of a training says about the precision it takes."""
    import timm

    from tlopt.images.opening import open_pixels
    from tlopt.preprocess import Preprocess
    from tlopt.training import pace
    from tlopt.training.loop import Run

    folder = scan(root)
    model = timm.create_model(network, num_classes=len(folder.classes))
    with contextlib.closing(open_pixels(folder, Preprocess(size=size), cache_gb=0)) as images:
        run = Run(model, images, images, Hyperparameters(batch=batch), None, None)
        with run.folded():
            started = time.perf_counter()
            pace.settle(run, below=0, steps=100)
        return {**run.history.trial, "seconds": round(time.perf_counter() - started, 1)}


def precisions(options: argparse.Namespace) -> None:
    """Write which precision is taken for each network with each processor's instructions."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = subset(options.images, options.number, Path(folder) / "images")
        for network in NETWORKS:
            for name, said in ABILITIES.items():
                command = [sys.executable, __file__, "--precisions", "--contestant", network, "--images", root,
                           "--size", options.size, "--batch", options.batch]  # fmt: skip
                done = subprocess.run(
                    list(map(str, command)), capture_output=True, text=True, check=True,
                    env={**os.environ, "ONEDNN_MAX_CPU_ISA": name},
                )  # fmt: skip
                found = json.loads(done.stdout.strip().rpartition("\n")[2])
                rows.append({"network": network, "instructions": said, "ONEDNN_MAX_CPU_ISA": name, **found})
                print(rows[-1], file=sys.stderr, flush=True)
    result = {
        "what": "a step's passes forward and back, median of some turns, milliseconds, and what auto takes",
        "command": f"python benchmarks/finetune.py --precisions --size {options.size} --batch {options.batch} "
        f"--number {options.number}",
        "device": processor(), "cores": cores(), "versions": versions(), "size": options.size,
        "batch": options.batch, "rows": rows,
    }  # fmt: skip
    file = options.out / "finetune-precision-steps"
    write_whole(file.with_suffix(".json"), json.dumps(result, indent=2) + "\n")
    lines = [
        f"# Which precision training takes: {options.size} px, batch {options.batch}", "",
        f"{result['device']}, {result['cores']} cores; torch {result['versions']['torch']}. "
        f"`{result['command']}`. {result['what'].capitalize()}.", "",
        "| network | instructions | fp32 | bf16 | images a step | turns | taken | because | seconds of the trial |",
        "|---|---|---:|---:|---:|---:|---|---|---:|",
        *(
            f"| {row['network']} | {row['instructions']} | {row['step_ms']['fp32']:.0f} | {row['step_ms']['bf16']:.0f} "
            f"| {row['images']} | {row['turns']} | {row['chosen']} | {row['reason']} | {row['seconds']} |"
            for row in rows
        ),
    ]  # fmt: skip
    write_whole(file.with_suffix(".md"), "\n".join(lines) + "\n")


def subset(root: Path, images: int, target: Path) -> Path:
    """Link the first training images of every class into a folder of class folders."""
    part = scan(root).split(val=0.15, test=0.15, seed=0)["train"]
    for label, name in enumerate(part.classes):
        (target / name).mkdir(parents=True)
        members = [file for file, own in zip(part.files, part.labels, strict=True) if own == label]
        for i, file in enumerate(members[: images // len(part.classes)]):
            (target / name / f"{i:04}{Path(file).suffix}").symlink_to((part.path / file).resolve())
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=SHARED)
    parser.add_argument("--number", type=int, default=320, help="training images used")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precisions", action="store_true", help="show which precision auto takes")
    parser.add_argument("--batch", type=int, default=BATCH, help="with --precisions")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--python", default=sys.executable, help="interpreter that may have fastai")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant and options.precisions:
        print(json.dumps(tried(options.contestant, options.images, options.size, options.batch)))
        return
    if options.precisions:
        precisions(options)
        return
    if options.contestant:
        print(json.dumps(compete(options.contestant, options.images, options.size)))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
    skipped: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = subset(options.images, options.number, Path(folder) / "images")
        count = len(scan(root))
        for turn in range(options.rounds):
            for name in CONTESTANTS:
                if name in skipped:
                    continue
                command = [
                    options.python,
                    __file__,
                    "--contestant",
                    name,
                    "--images",
                    root,
                    "--size",
                    str(options.size),
                ]
                done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
                if done.returncode:
                    skipped[name] = done.stderr.strip().rpartition("\n")[2]
                    continue
                found[name].append(json.loads(done.stdout.strip().rpartition("\n")[2]))
                print(turn, name, found[name][-1], file=sys.stderr, flush=True)
    rows = [
        {"contestant": name, **{key: round(statistics.median(run[key] for run in runs), 2) for key in runs[0]}}
        for name, runs in found.items()
        if runs
    ]
    result = {
        "what": "images per second of full fine-tuning, one warm epoch, medians over rounds",
        "command": f"python benchmarks/finetune.py --images {os.path.relpath(options.images)} "
        f"--rounds {options.rounds} --python PYTHON",
        "device": processor(), "cores": cores(), "versions": versions(), "model": MODEL, "size": options.size,
        "batch": BATCH, "images": count, "rounds": options.rounds, "precision": "fp32", "rows": rows,
        "runs": found, "skipped": skipped,
    }  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"finetune-speed-{options.images.name}"
    write_whole(file.with_suffix(".json"), json.dumps(result, indent=2) + "\n")
    write_whole(file.with_suffix(".md"), markdown(result))
    print(file.with_suffix(".md").read_text(encoding="utf-8"))


def ratios(rows: list[dict[str, Any]]) -> str:
    """Return tlopt's speed over the fastest of the others, as their users run them and tuned."""
    own = {row["contestant"]: row for row in rows if row["contestant"].startswith("tlopt")}
    full = next(row for name, row in own.items() if name.startswith("tlopt full"))
    head = next(row for name, row in own.items() if name.startswith("tlopt head"))
    parts = []
    for kind in ("default", "tuned"):
        best = max((r for r in rows if r["contestant"].endswith(kind)), key=lambda r: r["images_per_s"])
        parts.append(
            f"{full['images_per_s'] / best['images_per_s']:.2f} x the fastest {kind} peer ({best['contestant']}); "
            f"five of its epochs take {5 * best['seconds'] / head['seconds']:.0f} x as long as all of tlopt's head"
        )
    return f"{full['contestant']}: {'. It is '.join(parts)}."


def markdown(result: dict[str, Any]) -> str:
    """Return the result as a table."""
    lines = [
        f"# Speed of full fine-tuning: {result['model']} at {result['size']} px, batch {result['batch']}", "",
        f"{result['what']}; {result['images']} photos, {result['rounds']} rounds, {result['precision']}.", "",
        f"{result['device']}, {result['cores']} cores; torch {result['versions']['torch']}, timm "
        f"{result['versions']['timm']}. `{result['command']}`", "",
        "| contestant | images/s | seconds | peak memory, MB |", "|---|---:|---:|---:|",
        *(
            f"| {row['contestant']} | {row['images_per_s']:.1f} | {row['seconds']:.1f} | {row['peak_mb']:.0f} |"
            for row in result["rows"]
        ),
        "", ratios(result["rows"]), "", *(f"Not run: {name}: {reason}" for name, reason in result["skipped"].items()),
    ]  # fmt: skip
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    main()
