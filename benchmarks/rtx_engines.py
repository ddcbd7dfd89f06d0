"""What TensorRT for RTX makes of 20 networks in each precision: engines are built ahead of time, without a GPU.

    python benchmarks/rtx_engines.py [--only timm:resnet18,…] [--variants fp16,int8,…] [--limit-s 1200] [--again]

Each network is a process of its own with a time limit. Its weights are random, and its images are small and few: what
is looked at is the engine, not the accuracy. Each engine's layer listing is held against its ONNX file: which share of
the multiply-adds computes in the wanted precision, and what keeps the rest from it.
Results are written after each engine to results/rtx-engines.json, with a table beside it. A run goes on where the last
one ended.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from architectures import CLASSES, SIZE, write_images
from rtx_page import page

from tlopt.publishing import write_whole

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "rtx-engines.json"
SIZES = {"timm:inception_v3": 96}  # it takes no fewer pixels
NETWORKS = (
    "timm:resnet18", "timm:resnet50", "timm:resnext50_32x4d", "timm:seresnet18", "timm:resnetv2_50", "timm:densenet121",
    "timm:dla34", "timm:mobilenetv2_100", "timm:mobilenetv3_large_100", "timm:mobilenetv4_conv_small",
    "timm:tf_efficientnet_lite0", "timm:efficientnet_b0", "timm:regnety_004", "timm:convnext_atto",
    "timm:mobilevit_xxs", "timm:repvgg_a0", "timm:hgnetv2_b0", "timm:ghostnet_100",
    "timm:cspresnet50", "timm:inception_v3",
)  # fmt: skip
TARGETS = ("sm80", "sm86", "sm89", "sm120")
NEWER = ("sm89", "sm120")  # fp8 begins there
# Smallest, tuned and largest batch; the first is the one of the table.
PROFILES = ((1, 8, 32), (1, 1, 1), (4, 16, 64), (1, 256, 256))
# What is built -> the ONNX artifact it is made of, and its precision.
VARIANTS = {
    "fp32": ("fp32", "fp32"), "fp16": ("fp32", "fp16"), "bf16": ("fp32", "bf16"), "int8": ("fp32", "int8"),
    "fp8": ("fp32", "fp8"), "profiles": ("fp32", "int8"), "pruned fp16": ("pruned", "fp16"),
    "pruned int8": ("pruned", "int8"), "qat fp16": ("qat", "fp16"), "qat int8": ("qat", "int8"),
}  # fmt: skip


class Network:
    """A network with random weights, and what is made of it: each artifact once, when it is first asked for."""

    def __init__(self, model: str, work: Path) -> None:
        self.model, self.work = model, work
        self.size = SIZES.get(model, SIZE)
        self.images = work / "images"
        write_images(self.images, self.size)
        self._failed: dict[str, Exception] = {}

    def made(self, name: str, make: Callable[[Path], Any]) -> Path:
        """Return the folder of an artifact. What failed once fails again in the same way."""
        place = self.work / name.replace(" ", "-")
        if name in self._failed:
            raise self._failed[name]
        if not place.exists():
            try:
                make(place)
            except Exception as error:
                self._failed[name] = error
                raise
        return place

    def tuned(self) -> Path:
        """Return the network with its random weights and a head for two classes."""
        import tlopt

        weights = _weights(self.model, self.size, self.work / "weights.safetensors")
        settings: dict[str, Any] = {"method": "head", "image_size": self.size, "weights": weights}
        cache = self.work / "cache"
        return self.made(
            "tuned", lambda out: tlopt.finetune(self.images, out, model=self.model, cache_dir=cache, **settings)
        )

    def floats(self, kind: str) -> Path:
        """Return the ONNX artifact in fp32: of the network itself, pruned by a third, or trained for int8."""
        import tlopt

        cache = self.work / "cache"
        if kind == "pruned":
            source = self.made(
                "pruned", lambda out: tlopt.prune(self.tuned(), out, ratio=0.3, epochs=0, samples=8, cache_dir=cache)
            )
        elif kind == "qat":
            source = self.made(
                "qat", lambda out: tlopt.qat(self.tuned(), out, for_="tensorrt", epochs=1, batch=8, cache_dir=cache)
            )
        else:
            source = self.tuned()
        return self.made(f"{kind} onnx", lambda out: tlopt.export(source, out))

    def onnx(self, kind: str, precision: str) -> Path:
        """Return the ONNX artifact in a precision. Weights are rounded to nearest: which they are changes no layer."""
        import tlopt

        source = self.floats(kind)
        if precision == "fp32":
            return source
        how: dict[str, Any] = {}
        if precision in ("int8", "fp8") and kind != "qat":
            how = {"rounding": "nearest", "bias_correction": False}
        return self.made(
            f"{kind} {precision}",
            lambda out: tlopt.quantize(source, out, precision=precision, for_="tensorrt", samples=8, **how),
        )


def build(network: Network, variant: str, batches: tuple[int, int, int] = PROFILES[0]) -> dict[str, Any]:
    """Build an engine and hold its layers against the file that it was made of."""
    import onnx

    import tlopt
    from tlopt.engine.building.explaining import explain
    from tlopt.engine.layers import Layers

    kind, precision = VARIANTS[variant]
    source = tlopt.Artifact.load(network.onnx(kind, precision))
    smallest, tuned, largest = batches
    out = network.work / "engine"
    started = time.perf_counter()
    engine = tlopt.build(
        source,
        out,
        target=NEWER if precision == "fp8" else TARGETS,
        flavour="rtx",
        min_batch=smallest,
        opt_batch=tuned,
        max_batch=largest,
        force=True,
    )
    seconds = time.perf_counter() - started
    layers = Layers.from_json((engine.path / "layers.json").read_text(encoding="utf-8"))
    found = explain(layers, onnx.load(source.payload(".onnx")), precision)
    reasons: Counter[str] = Counter()
    for stray in found.strays:
        reasons[_kind(stray.reason)] += stray.macs
    listed = found.inside + sum(stray.macs for stray in found.strays)
    if found.macs > listed:
        reasons["the listing names no layer for it"] += found.macs - listed
    return {
        "built": True,
        "share": round(found.inside / found.macs, 4),
        "layers": engine.card.engine.inspector.layers,
        "size_mb": round(engine.size_mb, 2),
        "build_s": round(seconds, 2),
        "rest": {reason: round(macs / found.macs, 4) for reason, macs in reasons.most_common() if macs},
        "strays": [str(stray) for stray in found.strays][:40],
    }


def _kind(reason: str) -> str:
    """Return a reason without the names of this network's nodes."""
    words = reason.split()
    return " ".join("…" if any(c.isdigit() or c == "_" for c in word) else word for word in words)


def measured(network: Network, variant: str) -> dict[str, Any]:
    """Return what is found of a variant, or why it cannot be built."""
    from tlopt.errors import TloptError

    try:
        if variant != "profiles":
            return build(network, variant)
        rows = {" / ".join(map(str, batches)): build(network, variant, batches) for batches in PROFILES}
        keys = ("share", "layers", "size_mb", "build_s")
        return {"built": True, "profiles": {name: {key: row[key] for key in keys} for name, row in rows.items()}}
    except TloptError as error:
        return {"built": False, "why": error.message}
    except Exception as error:  # noqa: BLE001 -- a fault of tlopt is what this looks for
        return {"built": False, "why": f"{type(error).__name__}: {error}"}


def _weights(model: str, size: int, file: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    from tlopt import sources

    if not file.exists():
        torch.manual_seed(0)
        network = sources.build(model, classes=len(CLASSES), size=size)
        save_file({name: tensor.clone().contiguous() for name, tensor in network.state_dict().items()}, file)
    return file


def child(model: str, variants: list[str], work: Path) -> None:
    """Print a line of JSON for each variant of a network."""
    network = Network(model, work)
    for variant in variants:
        print(json.dumps({variant: measured(network, variant)}), flush=True)


def one(model: str, variants: list[str], limit_s: float, save: Callable[[str, dict[str, Any]], None]) -> None:
    """Build the engines of a network in a process of its own, and save each as it is told."""
    left = list(variants)
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, __file__, "--child", model, "--variants", ",".join(variants), "--work", work]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            limit = threading.Timer(limit_s, process.kill)
            limit.start()
            for line in process.stdout:
                if line.startswith('{"'):
                    for variant, row in json.loads(line).items():
                        save(variant, row)
                        left.remove(variant)
            code = process.wait()
            limit.cancel()
    if left:
        save(left[0], {"built": False, "why": f"the process ended with {code}, or was not done after {limit_s:.0f} s"})


def conditions() -> dict[str, Any]:
    """Return what the results hold for."""
    from tlopt.engine import flavour
    from tlopt.environment import processor, versions

    found = flavour.load("rtx")
    return {
        "builder": found.title,
        "processor": processor(),
        "pixels": SIZE,
        "targets": {"fp8": list(NEWER), "others": list(TARGETS)},
        "batches": list(PROFILES[0]),
        "weights": "random",
        "versions": versions(),
        "command": "python benchmarks/rtx_engines.py",
    }


def main() -> None:
    """Build what is not built yet, and write the results after each engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="networks, with commas between them")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="what is built, with commas between")
    parser.add_argument("--limit-s", type=float, default=1200, help="time limit of a network")
    parser.add_argument("--again", action="store_true", help="build what has a result, too")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    variants = arguments.variants.split(",")
    if unknown := set(variants) - set(VARIANTS):
        parser.error(f"unknown variants: {', '.join(sorted(unknown))}; there are {', '.join(VARIANTS)}")
    if arguments.child:
        child(arguments.child, variants, arguments.work)
        return
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"results": {}}
    results: dict[str, Any] = known["results"]
    for model in arguments.only.split(",") if arguments.only else NETWORKS:
        row = results.setdefault(model, {})
        wanted = [name for name in variants if arguments.again or name not in row]

        def save(variant: str, found: dict[str, Any], model: str = model, row: dict[str, Any] = row) -> None:
            row[variant] = found
            content = {"conditions": conditions(), "notes": known.get("notes", []), "results": results}
            write_whole(RESULTS, json.dumps(content, indent=1) + "\n")
            write_whole(RESULTS.with_suffix(".md"), page(content, tuple(VARIANTS)))
            print(model, variant, found.get("share", ""), found.get("why", ""), flush=True)

        if wanted:
            one(model, wanted, arguments.limit_s, save)


if __name__ == "__main__":
    main()
