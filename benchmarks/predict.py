"""Images per second of `tlopt predict` over a folder beside timm's pieces and a plain torchvision loop, in one run.

    python benchmarks/predict.py [--images ../shared/data/clothing10] [--number 400] [--rounds 2] [--artifacts DIR]

Every contestant classifies the same photos on disk with EfficientNet-Lite0, its ImageNet weights and its ImageNet
classifier, at 224 px, and names the five most probable classes of each. tlopt runs what `import`, `export` and
`quantize` make of it; timm's and torchvision's contestants run it in torch, fp32: "default" is how their documentation
puts loader and network together, with one loader process per core; "tuned" adds channels last. Contestants take
turns, each in a process of its own, so that what else the machine does hits all alike; the figures are medians over
the rounds. The clock starts when libraries are imported. tlopt's includes opening and checking the artifact; that of
the others starts with their network already built. Processor seconds are the process's and its loaders' together.
The photos come from the project's shared folder; --images takes any other, "elpv" the package elpv-dataset's.
"""

from __future__ import annotations

import argparse
import functools
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

import numpy as np
import torch

import tlopt
from tlopt import sources
from tlopt.artifact import Artifact
from tlopt.environment import cores, processor, versions
from tlopt.networks import vision_ops
from tlopt.publishing import write_whole

vision_ops.declare()  # torchvision does not import beside a CPU-only torch without

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "clothing10"
MODEL = "pip:efficientnet_lite0"
TIMM_NAME = "tf_efficientnet_lite0"
BATCH = 32
TOP = 5
Measured = tuple[float, float, list[int]]  # seconds, processor seconds, the best class of each photo in order


def make(images: Path, folder: Path) -> None:
    """Make the artifacts that are missing."""
    steps: list[tuple[str, Callable[[Path], object]]] = [
        ("torch", lambda out: tlopt.import_model(None, out, model=MODEL)),
        ("fp32", lambda out: tlopt.export(folder / "torch", out)),
        ("uint8", lambda out: tlopt.export(folder / "torch", out, input_="uint8")),
        ("int8-onnxruntime", lambda out: tlopt.quantize(folder / "fp32", out, for_="onnxruntime", images=images)),
        ("int8-openvino", lambda out: tlopt.quantize(folder / "fp32", out, for_="openvino", images=images)),
    ]
    for name, step in steps:
        if not (folder / name).exists():
            step(folder / name)


def clock() -> tuple[float, float]:
    """Return the time, and the processor time of this process and of its children that have ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return time.perf_counter(), sum(used.ru_utime + used.ru_stime for used in both)


def since(started: tuple[float, float], labels: list[int]) -> Measured:
    now = clock()
    return now[0] - started[0], now[1] - started[1], labels


def by_tlopt(root: Path, artifacts: Path, *, artifact: str, backend: str) -> Measured:
    from tlopt.backends import load

    classes = {name: i for i, name in enumerate(Artifact.load(artifacts / artifact).card.classes)}
    load(backend)  # the clock starts with the libraries imported
    started = clock()
    found = list(tlopt.predict(artifacts / artifact, root, top=TOP, backend=backend, batch=BATCH))
    return since(started, [classes[answer.classes[0]] for answer in found])


def _loop(network: torch.nn.Module, loader: Any, *, channels_last: bool) -> list[int]:
    labels: list[int] = []
    with torch.inference_mode():
        for inputs, _ in loader:
            batch = inputs.contiguous(memory_format=torch.channels_last) if channels_last else inputs
            top = network(batch).softmax(1).topk(TOP)
            labels += top.indices[:, 0].tolist()
    return labels


def by_timm(root: Path, _: Path, *, channels_last: bool) -> Measured:
    """Run timm's dataset, loader and network as its inference script puts them together."""
    import timm
    from timm.data import create_dataset, create_loader

    fixed, preprocess = sources.load(MODEL, classes=0)
    network = timm.create_model(TIMM_NAME)
    network.load_state_dict(fixed.state_dict())
    network.eval()
    if channels_last:
        network.to(memory_format=torch.channels_last)
    started = clock()
    loader = create_loader(
        create_dataset("", root=str(root)), input_size=(3, preprocess.size, preprocess.size), batch_size=BATCH,
        use_prefetcher=False, interpolation=preprocess.interpolation, mean=preprocess.mean, std=preprocess.std,
        crop_pct=preprocess.crop_ratio, num_workers=cores(), device=torch.device("cpu"), pin_memory=False,
    )  # fmt: skip
    labels = _loop(network, loader, channels_last=channels_last)
    return since(started, labels)


def by_torchvision(root: Path, _: Path, *, channels_last: bool) -> Measured:
    """Run a plain loop over torchvision's ImageFolder and transforms; the network's padding is fixed beforehand."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    network, preprocess = sources.load(MODEL, classes=0)
    network.eval()
    if channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    started = clock()
    side = int(preprocess.size / preprocess.crop_ratio)
    transform = transforms.Compose(
        [
            transforms.Resize(side, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(preprocess.size),
            transforms.ToTensor(),
            transforms.Normalize(preprocess.mean, preprocess.std),
        ]
    )
    loader = torch.utils.data.DataLoader(ImageFolder(str(root), transform), batch_size=BATCH, num_workers=cores())
    labels = _loop(network, loader, channels_last=channels_last)
    return since(started, labels)


CONTESTANTS: dict[str, Callable[[Path, Path], Measured]] = {
    "tlopt int8, openvino": functools.partial(by_tlopt, artifact="int8-openvino", backend="openvino"),
    "tlopt int8, onnxruntime": functools.partial(by_tlopt, artifact="int8-onnxruntime", backend="onnxruntime"),
    "tlopt fp32, openvino": functools.partial(by_tlopt, artifact="fp32", backend="openvino"),
    "tlopt fp32, onnxruntime": functools.partial(by_tlopt, artifact="fp32", backend="onnxruntime"),
    "timm default": functools.partial(by_timm, channels_last=False),
    "timm tuned": functools.partial(by_timm, channels_last=True),
    "torchvision default": functools.partial(by_torchvision, channels_last=False),
    "torchvision tuned": functools.partial(by_torchvision, channels_last=True),
}


def compete(name: str, root: Path, artifacts: Path) -> dict[str, Any]:
    """Run one contestant in this process."""
    seconds, processor_seconds, labels = CONTESTANTS[name](root, artifacts)
    return {
        "images_per_s": len(labels) / seconds,
        "seconds": seconds,
        "processor_ms_per_image": processor_seconds / len(labels) * 1e3,
        "labels": labels,
    }


def quantized(artifacts: Path) -> dict[str, str]:
    """Return how the int8 artifacts were made."""
    return {
        name: "rounding {rounding}, {samples} images".format_map(
            Artifact.load(artifacts / name).card.lineage[-1].settings
        )
        for name in ("int8-openvino", "int8-onnxruntime")
    }


def parity(root: Path, artifacts: Path) -> dict[str, float]:
    """Hold the graph that takes raw RGB bytes against the one that Python preprocesses for, on all photos."""
    from tlopt.images import SUFFIXES
    from tlopt.reading.image_files import read_image

    plain, raw = (Artifact.load(artifacts / name) for name in ("fp32", "uint8"))
    largest, spread, same, count = 0.0, [], 0, 0
    with tlopt.open_runner(plain) as first, tlopt.open_runner(raw) as second:
        for file in sorted(file for file in root.rglob("*") if file.suffix in SUFFIXES):
            pixels = plain.card.preprocess.pixels(read_image(file))[None]
            was, now = first(plain.card.preprocess.normalize(pixels)), second(pixels)
            largest = max(largest, float(np.abs(now - was).max()))
            spread.append(float(was.std()))
            same, count = same + int(was.argmax() == now.argmax()), count + 1
    return {
        "photos": count,
        "same_label": same / count,
        "largest_difference": largest,
        "spread": np.mean(spread).item(),
    }


def subset(images: str, number: int, target: Path) -> Path:
    """Link photos, spread over all of them, into one class folder, the same order for every contestant."""
    if images == "elpv":
        import elpv_dataset

        root = Path(elpv_dataset.__file__).parent / "data"
    else:
        root = Path(images)
    files = sorted(file for file in root.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    (target / "all").mkdir(parents=True)
    chosen = np.unique(np.linspace(0, len(files) - 1, min(number, len(files))).round().astype(int))
    for i, place in enumerate(chosen):
        (target / "all" / f"{i:05}{files[place].suffix}").symlink_to(files[place].resolve())
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default=str(SHARED), help="folder of photos, or elpv")
    parser.add_argument("--calibration", type=Path, default=SHARED, help="labelled photos that int8 is calibrated on")
    parser.add_argument("--number", type=int, default=400, help="photos classified")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--artifacts", type=Path, help="folder that keeps the artifacts for the next run")
    parser.add_argument("--only", help="contestants whose names start so")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        print(json.dumps(compete(options.contestant, Path(options.images), options.artifacts)))
        return
    names = [name for name in CONTESTANTS if name.startswith(options.only or "")]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        root = subset(options.images, options.number, Path(folder) / "images")
        count = len(list((root / "all").iterdir()))
        artifacts = options.artifacts or Path(folder) / "artifacts"
        make(options.calibration, artifacts)
        for turn in range(options.rounds):
            for name in names[turn % 2 * -1 :] + names[: turn % 2 * -1]:
                command = [sys.executable, __file__, "--contestant", name]
                command += ["--images", str(root), "--artifacts", str(artifacts)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(f"{name} failed:\n{done.stderr}")
                found[name].append(json.loads(done.stdout.strip().rpartition("\n")[2]))
                shown = {key: round(value, 2) for key, value in found[name][-1].items() if key != "labels"}
                print(turn, name, shown, file=sys.stderr, flush=True)
        loads.append(os.getloadavg()[0])
        raw, made = parity(root, artifacts), quantized(artifacts)
    labels = {name: np.array(runs[0].pop("labels")) for name, runs in found.items()}
    for runs in found.values():
        for run in runs:
            run.pop("labels", None)
    reference = labels.get("timm default", next(iter(labels.values())))
    rows: list[dict[str, Any]] = [
        {
            "contestant": name,
            **{key: round(statistics.median(run[key] for run in runs), 2) for key in runs[0]},
            "agreement": round(float((labels[name] == reference).mean()), 4),
        }
        for name, runs in found.items()
    ]
    result = {
        "what": "images per second from files to the five best classes, medians over rounds",
        "command": f"python benchmarks/predict.py --number {options.number} --rounds {options.rounds}",
        "device": processor(), "cores": cores(), "versions": versions(), "model": MODEL, "batch": BATCH,
        "images": count, "photos": Path(options.images).name, "rounds": options.rounds, "load": loads,
        "ratio": _ratio(rows), "quantized": made, "uint8_parity": raw, "rows": rows,
        "runs": found,
    }  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / ("predict" if Path(options.images) == SHARED else f"predict-{Path(options.images).name}")
    write_whole(file.with_suffix(".json"), json.dumps(result, indent=2) + "\n")
    write_whole(file.with_suffix(".md"), markdown(result))
    print(file.with_suffix(".md").read_text(encoding="utf-8"))


def _ratio(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the speed of tlopt's best int8 over that of the fastest peer, on the wall clock and in processor time."""
    ours = [row for row in rows if row["contestant"].startswith("tlopt int8")]
    peers = [row for row in rows if not row["contestant"].startswith("tlopt")]
    if not ours or not peers:
        return {}
    key = "processor_ms_per_image"
    return {
        "images_per_s": round(max(r["images_per_s"] for r in ours) / max(r["images_per_s"] for r in peers), 2),
        "processor_time": round(min(r[key] for r in peers) / min(r[key] for r in ours), 2),
    }


def markdown(result: dict[str, Any]) -> str:
    """Return the result as a table."""
    ratio = result["ratio"]
    lines = [
        f"# tlopt predict over {result['images']} photos: {result['model']}, batch {result['batch']}", "",
        f"{result['what']}; {result['photos']}, {result['rounds']} rounds.", "",
        f"{result['device']}, {result['cores']} cores; torch {result['versions']['torch']}, timm "
        f"{result['versions']['timm']}, Pillow {result['versions']['pillow']}. `{result['command']}`", "",
        f"Load of the machine before and after: {result['load'][0]:.1f} and {result['load'][1]:.1f}; above the cores, "
        "other work ran beside this. Processor time includes what torch's threads spend waiting for one another.", "",
        "int8: " + "; ".join(f"{name} {settings}" for name, settings in result["quantized"].items()) + ".", "",
        "| contestant | images/s | seconds | processor ms per image | same label as timm |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {row['contestant']} | {row['images_per_s']:.1f} | {row['seconds']:.1f} "
            f"| {row['processor_ms_per_image']:.1f} | {row['agreement']:.1%} |"
            for row in result["rows"]
        ),
        "",
    ]  # fmt: skip
    if ratio:
        lines += [
            f"The faster int8 artifact does {ratio['images_per_s']:.2f} times the images per second of the fastest "
            f"peer, and takes 1/{ratio['processor_time']:.2f} of its processor time.",
        ]
    raw = result["uint8_parity"]
    lines += [
        "",
        f"`tlopt export --input uint8`, fed raw RGB bytes, beside the graph that Python preprocesses for, on "
        f"{raw['photos']} photos: {raw['same_label']:.2%} same labels, logits differ by "
        f"{raw['largest_difference']:.2g} at most (their spread is {raw['spread']:.2g}).",
    ]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    main()
